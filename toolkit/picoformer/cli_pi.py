"""The commands of a Raspberry Pi: pack a model into a bundle here, run it there with onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from picoformer.cli_options import ANY, COUNT, FILE, FOLDER, json_option, read_shapes, shape_option
from picoformer.cli_output import aligned, notice, progress, show
from picoformer.cli_text import given_options, text_options, token_ids
from picoformer.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from picoformer.raspberry_pi import Runner
    from picoformer.raspberry_pi.sample_files import Samples

F = TypeVar("F", bound=Callable[..., Any])
SAMPLES = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
THREADS = click.IntRange(1, 1024)
STANDARD_INPUT = Path("-")
BEAMS = click.option("--beams", type=click.IntRange(1, 64), default=1, show_default=True, help="Beams of a search.")
REQUEST = ("prompt", "prompt_ids", "tokens", "greedy", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
           "seed", "beams", "length_penalty", "early_stopping", "stops", "stop_ids")  # fmt: skip
"""Options that are fields of generation.request.TextRequest."""


@click.group("pi")
def pi() -> None:
    """Pack a model for a Raspberry Pi, and run it there.

    `pip install 'picoformer[pi]'` is all that the Pi needs; `package` runs on the workstation.
    """


def run_options(function: F) -> F:
    """What `run`, `classify` and `embed` are asked about, and on how many cores."""
    for option in (
        json_option,
        click.option("--threads", type=THREADS, help="Threads of one run; default: as many as there are cores."),
        click.option("--text", "texts", multiple=True, help="A text to ask about; repeatable."),
        click.option("--inputs", type=SAMPLES, help=".npz, .csv (a sample a row), .txt (a text a line), or - for lines "
                                                    "on standard input, each answered by a line of JSON."),
        click.argument("bundle", type=ANY),
    ):  # fmt: skip
        function = option(function)
    return function


@pi.command("package")
@click.argument("model", type=ANY)
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder to write.")
@click.option("--scheme", type=click.Choice(["float32", "int8", "int4"]),
              help="What the numbers become; default: as they are.")  # fmt: skip
@click.option("--calibration", type=FILE, help=".npz of inputs: round activations, too.")  # fmt: skip
@click.option("--task", type=click.Choice(["run", "classify", "embed", "generate"]),
              help="What it is for; default: what it looks like.")  # fmt: skip
@click.option("--tokenizer", type=ANY, help="tokenizer.json, a SentencePiece model or llama2.c's tokenizer.bin.")
@click.option("--classes", metavar="NAMES", help="Names of the classes, a,b,c or a text file with one a line.")
@click.option("--inputs", type=FILE, help=".npz of samples to check the bundle by; default: made up.")
@click.option("--output-name", "output_name", metavar="NAME", help="Which of several outputs is scores or embedding.")
@click.option(
    "--scores", type=click.Choice(["logits", "probabilities"]), help="Of classes; default: what they look like."
)
@click.option("--pooling", type=click.Choice(["mean", "first", "none"]), help="Of an embedding; default: mean of rows.")
@click.option("--normalize/--no-normalize", default=True, show_default=True, help="Embeddings of length 1.")
@click.option("--max-length", type=COUNT, default=0, help="Most tokens of a text; 0: the model's, else 512.")
@click.option("--context", type=COUNT, default=0, help="Tokens of prompt and text together; 0: all it knows.")
@click.option("--sampling", multiple=True, metavar="KEY=VALUE",
              help="What `pi generate` does where nobody says: temperature=0.8, top_k=40; repeatable.")  # fmt: skip
@shape_option
@click.option("--archive", is_flag=True, help="Write NAME.tar.gz beside the folder, too.")
@json_option
def package_command(
    model: Path, output: Path, output_name: str | None, shapes: tuple[str, ...], sampling: tuple[str, ...],
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Pack a model into a bundle for a Raspberry Pi.

    MODEL is an ONNX file, a checkpoint (.safetensors), a language model (Hugging Face folder, llama2.c .bin), or a
    folder of `build` or `quantize`. The bundle holds the model as onnxruntime runs it fast on Arm, what text needs,
    and a sample with its answers, which is checked here and by `pi check`.
    """
    from picoformer.bundling.options import BundleOptions
    from picoformer.bundling.write import package

    chosen = BundleOptions(output=output_name, shapes=read_shapes(shapes), sampling=_sampling(sampling), **options)
    with progress() as tick:
        record = package(model, output, chosen, lambda what, done, total: tick(what, done, total, 0.0))

    def table() -> None:
        for key in ("bundle", "archive", "task", "scheme", "bytes", "answers_of", "checked"):
            if key in record:
                value = record[key]
                click.echo(f"  {key.replace('_', ' '):<12} {f'{value:,}' if isinstance(value, int) else value}")

    show(record, as_json, table)


def _sampling(texts: Sequence[str]) -> dict[str, Any]:
    """The --sampling options as a request's keys and values. Raises ConfigError naming one that makes no sense."""
    from picoformer.raspberry_pi.json_fields import parse_json
    from picoformer.raspberry_pi.requests import read_request

    found: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            found[key.strip().replace("-", "_")] = parse_json(value)
        except ValueError:
            raise ConfigError(f"--sampling {text}: write KEY=VALUE with a number, true or false") from None
    for key in ("prompt", "prompt_ids", "beams", "length_penalty", "early_stopping", "seed"):
        if key in found:
            raise ConfigError(f"--sampling {key}: is said with each text, not in the bundle; leave it out")
    return read_request(found)


@pi.command("run")
@click.option("-o", "--output", type=FILE, help="Write the outputs to this .npz, samples along axis 0.")
@run_options
def run_command(
    bundle: Path, inputs: Path | None, texts: tuple[str, ...], threads: int | None, output: Path | None, as_json: bool
) -> None:
    """Run a bundle's model on samples: numbers in, numbers out."""
    _refuse_over(output, bundle, inputs)
    runner = open_for(bundle, threads)
    if inputs == STANDARD_INPUT:
        _serve_lines(runner, "run", output)
        return
    samples = _asked(runner, inputs, texts)
    results = [runner.run(given) for given in samples.given]
    _save(output, results)

    def table() -> None:
        for at, result in enumerate(results[:8]):
            for name, value in result.items():
                row = value.reshape(-1)
                some = "  ".join(f"{number:.5g}" for number in row[:6].tolist()) + ("  …" if row.size > 6 else "")
                click.echo(f"  {at:>4}  {name} {list(value.shape)}  {some}")
        if len(results) > 8:
            click.echo(f"  … of {len(results)} samples; -o writes all of them")

    show({"results": [{name: v.tolist() for name, v in result.items()} for result in results]} if as_json else {},
         as_json, table)  # fmt: skip


@pi.command("classify")
@click.option("--top", type=click.IntRange(1, 1 << 20), default=3, show_default=True, help="Classes to show.")
@run_options
def classify_command(
    bundle: Path, inputs: Path | None, texts: tuple[str, ...], threads: int | None, top: int, as_json: bool
) -> None:
    """Say which class a text or a sample is of, and how probable that is."""
    runner = open_for(bundle, threads)
    if inputs == STANDARD_INPUT:
        _serve_lines(runner, "classify", None, top)
        return
    samples = _asked(runner, inputs, texts)
    results = [runner.classify(given, top) for given in samples.given]
    record: dict[str, Any] = {"results": [result.to_json() for result in results]}
    if samples.labels is not None:
        right = sum(result.top[0].index == int(label) for result, label in zip(results, samples.labels, strict=True))
        record["accuracy"] = right / len(results)

    def table() -> None:
        for at, (given, result) in enumerate(zip(samples.given, results, strict=True)):
            what = given if isinstance(given, str) else f"sample {at}"
            ranks = "  ".join(f"{entry.label} {entry.probability:.4f}" for entry in result.top)
            click.echo(f"  {what[:48]:<24}  {ranks}")
            if result.is_cut:
                notice("the text is longer than the model takes; its end was not looked at")
        if "accuracy" in record:
            click.echo(f"  accuracy {record['accuracy']:.4f} of {len(results)} samples")

    show(record, as_json, table)


@pi.command("embed")
@click.option("-o", "--output", type=FILE, help="Write the vectors to this .npz, (samples, width).")
@run_options
def embed_command(
    bundle: Path, inputs: Path | None, texts: tuple[str, ...], threads: int | None, output: Path | None, as_json: bool
) -> None:
    """Turn texts or samples into vectors; of two, say their cosine."""
    from picoformer.raspberry_pi.answers import cosine

    _refuse_over(output, bundle, inputs)
    runner = open_for(bundle, threads)
    if inputs == STANDARD_INPUT:
        _serve_lines(runner, "embed", output)
        return
    samples = _asked(runner, inputs, texts)
    results = [runner.embed(given) for given in samples.given]
    _save(output, [{"embedding": result.vector} for result in results])
    record: dict[str, Any] = {"results": [result.to_json() for result in results]}
    if len(results) == 2:
        record["cosine"] = cosine(results[0].vector, results[1].vector)

    def table() -> None:
        for at, result in enumerate(results):
            some = "  ".join(f"{number: .5f}" for number in result.vector[:5].tolist())
            click.echo(f"  {at:>4}  {len(result.vector)} numbers  {some}{'  …' if len(result.vector) > 5 else ''}")
        if "cosine" in record:
            click.echo(f"  cosine {record['cosine']:.6f}")

    show(record, as_json, table)


@pi.command("generate")
@click.argument("bundle", type=ANY)
@text_options
@BEAMS
@click.option("--inputs", type=SAMPLES, help=".txt with a prompt a line, or - for lines on standard input.")
@click.option("--threads", type=THREADS, help="Threads of one run; default: as many as there are cores.")
@json_option
def generate_command(bundle: Path, inputs: Path | None, threads: int | None, as_json: bool, **options: Any) -> None:
    """Write text with a bundle's language model.

    The flags are those of `picoformer generate`; where none is given, what was packed holds. The same flags and the
    same seed give the same text every time.
    """
    ids = {name: token_ids(f"--{name.replace('_', '-')}", options[name]) for name in ("prompt_ids", "stop_ids")}
    asked = {name: {**options, **ids}[name] for name in given_options(options) if name in REQUEST}
    runner = open_for(bundle, threads)
    if inputs is not None and ("prompt" in asked or "prompt_ids" in asked):
        raise ConfigError("--inputs and --prompt are both what to continue; give one")
    if inputs is not None and inputs != STANDARD_INPUT and inputs.suffix.lower() != ".txt":
        raise ConfigError(f"{inputs}: holds no prompts; give a .txt with a prompt a line, or - for standard input")
    if inputs == STANDARD_INPUT:
        _answer_lines(runner, lambda question: runner.answer(_with_defaults(question, asked), task="generate"), True)
        return

    def emit(text: str) -> None:
        click.echo(text, nl=False)
        sys.stdout.flush()

    if inputs is not None:
        prompts = [given for given in _asked(runner, inputs, ()).given if isinstance(given, str)]
        results = []
        for prompt in prompts:
            results.append(runner.generate(runner.request(**{**asked, "prompt": prompt}), None if as_json else emit))
            if not as_json:
                click.echo()
        if as_json:
            show({"results": [result.to_json() for result in results]}, True, lambda: None)
        return
    found = runner.generate(runner.request(**asked), None if as_json else emit)
    record = found.to_json()

    def figures() -> None:
        click.echo()
        for key in ("end", "prompt_tokens", "tokens_per_second"):
            if record[key] is not None:
                value = f"{record[key]:,.1f}" if isinstance(record[key], float) else record[key]
                click.echo(f"  {key.replace('_', ' '):<26} {value}")

    show(record, as_json, figures)


def _with_defaults(question: Any, asked: Mapping[str, Any]) -> Any:
    """A line's request over what stands on the command line."""
    if isinstance(question, str):
        return {**asked, "prompt": question}
    return {**asked, **question} if isinstance(question, dict) else question


@pi.command("check")
@click.argument("bundle", type=ANY)
@click.option("--threads", type=THREADS, help="Threads of one run; default: as many as there are cores.")
@json_option
def check_command(bundle: Path, threads: int | None, as_json: bool) -> None:
    """Run a bundle's parity sample here, and hold it to the answers of the model that was packed.

    Float outputs must lie within 10⁻⁴ of the largest, labels of an int8 classifier must be equal.
    """
    from picoformer.raspberry_pi.checking import check

    found = check(open_for(bundle, threads))
    show(found.to_json(), as_json, lambda: click.echo(f"  {found.says}"))
    if not found.is_passed:
        raise ModelError(f"{bundle}: {found.says}; it was packed with other answers")


@pi.command("bench")
@click.argument("bundle", type=ANY)
@click.option("--runs", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="Runs that count.")
@click.option("--warm-up", type=COUNT, default=5, show_default=True, help="Runs before these.")
@click.option("--threads", metavar="1,2,4", help="Numbers of threads to try; default: 1, 2, 4 … and all cores.")
@click.option("--tokens", type=click.IntRange(2, 65536), default=64, show_default=True,
              help="Tokens that a language model writes.")  # fmt: skip
@json_option
def bench_command(
    bundle: Path, runs: int, warm_up: int, threads: str | None, tokens: int, as_json: bool
) -> None:  # fmt: skip
    """Measure a bundle here: latency, tokens a second, memory.

    Beside it what the board says of itself: processor, governor, temperature, throttling. What it does not say is null.
    """
    from picoformer.raspberry_pi import open_bundle
    from picoformer.raspberry_pi.bench import BenchSettings, bench

    what = "numbers from 1 to 1024 with commas between, 1,2,4"
    counts = token_ids("--threads", threads, what) or ()
    if any(not 1 <= count <= 1024 for count in counts):
        raise ConfigError(f"--threads {threads}: write {what}")
    record = bench(open_bundle(bundle), BenchSettings(runs, warm_up, counts, tokens))
    show(record, as_json, lambda: _show_bench(record))


def _show_bench(record: Mapping[str, Any]) -> None:
    board, after = record["board"], record["after"]
    unknown = "not known"
    memory = board["memory_bytes"]
    rows = {
        "board": board["model"] or board["cpu"] or unknown,
        **({"emulated": f"by {board['emulator']}: its times are no board's"} if board["emulator"] else {}),
        "cores": f"{board['cores']} ({board['machine']})",
        "memory": f"{memory / 2**20:,.0f} MiB" if memory else unknown,
        "governor": board["governor"] or unknown,
        "clock": f"{board['clock_mhz']:,.0f} MHz" if board["clock_mhz"] else unknown,
        "temperature": f"{_degrees(board)} before, {_degrees(after)} after",
        "throttled": unknown if after["throttled"] is None else ", ".join(after["throttled"]) or "no",
        "model": f"{record['bundle']}, {record['scheme']}, {record['model_bytes']:,} bytes",
        "onnxruntime": record["onnxruntime"],
    }
    for title, figure in rows.items():
        click.echo(f"  {title:<14} {figure}")
    is_text = record["task"] == "generate"
    head = ["threads", "load s", "first ms", "min ms", "p50", "p90", "p99", "a second", "peak MiB"]
    head += ["prompt tokens a second"] if is_text else []
    table = []
    for one in record["threads"]:
        spread, peak, prompt = one["milliseconds"], one["peak_memory_bytes"], one["prompt_tokens_per_second"]
        figures = [one["load_seconds"], one["first_milliseconds"], *(spread[k] for k in ("min", "p50", "p90", "p99"))]
        row = [str(one["threads"]), *(f"{figure:.2f}" for figure in figures), f"{one['per_second']:,.1f}",
               f"{peak / 2**20:.1f}" if peak else unknown]  # fmt: skip
        table.append([*row, *([f"{prompt:,.1f}" if prompt else unknown] if is_text else [])])
    click.echo(f"\n  {'a token' if is_text else 'a run'}, after {record['warm_up']} that do not count")
    for line in aligned([head, *table], numbers=range(len(head))):
        click.echo(f"  {line}")


def _degrees(figures: Mapping[str, Any]) -> str:
    return "not known" if figures["temperature_celsius"] is None else f"{figures['temperature_celsius']:.1f} °C"


def open_for(bundle: Path, threads: int | None) -> Runner:
    """The model of a bundle in memory."""
    from picoformer.raspberry_pi import open_bundle, open_runner

    return open_runner(open_bundle(bundle), threads)


def _asked(runner: Runner, inputs: Path | None, texts: Sequence[str]) -> Samples:
    """What is asked about: the texts, or the samples of a file. Raises ConfigError where there are both, or none."""
    from picoformer.raspberry_pi.sample_files import Samples, read_samples

    if inputs is not None and texts:
        raise ConfigError("--text and --inputs are both what to ask about; give one")
    if inputs is not None:
        return read_samples(inputs, runner)
    if texts:
        return Samples(list(texts))
    raise ConfigError("nothing is asked; give --text, --inputs with a file, or --inputs - for standard input")


def _serve_lines(runner: Runner, task: str, output: Path | None, top: int = 5) -> None:
    if output is not None:
        raise ConfigError("--output does not go with --inputs -, whose answers are lines of JSON; leave it out")
    _answer_lines(runner, lambda question: runner.answer(question, top, task), runner.takes_text)


def _answer_lines(runner: Runner, answer: Callable[[Any], dict[str, Any]], is_text: bool) -> None:
    from picoformer.raspberry_pi.lines import answer_lines

    def write(line: str) -> None:
        click.echo(line, nl=False)  # which does not keep it

    answer_lines(sys.stdin.buffer, write, answer, is_text)


def _refuse_over(output: Path | None, bundle: Path, inputs: Path | None) -> None:
    """Raise ConfigError where the output would take the place of the samples or of a file of the bundle."""
    from picoformer.files import refuse_inputs

    if output is None:
        return
    refuse_inputs(output, [inputs])
    if bundle.resolve() in output.resolve().parents:
        raise ConfigError(f"{output}: lies in the bundle, whose files it could replace; give a place outside of it")


def _save(output: Path | None, results: Sequence[Mapping[str, Any]]) -> None:
    """Write outputs as an .npz, samples along axis 0. Raises ConfigError where their shapes differ."""
    if output is None:
        return
    import numpy as np

    from picoformer.files import save_arrays

    try:
        stacked = {name: np.stack([result[name] for result in results]) for name in results[0]}
    except ValueError:
        raise ConfigError(f"{output}: outputs of samples of different lengths are no array; use --json") from None
    save_arrays(output, stacked)
