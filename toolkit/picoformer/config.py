"""The pipeline's TOML: every section and key, validated before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from picoformer.compress.settings import DistillSettings, FactorizeSettings, PruneSettings, QatSettings, TrainSettings
from picoformer.errors import ConfigError
from picoformer.models.config import TransformerConfig
from picoformer.toml_file import read_toml

if TYPE_CHECKING:
    from picoformer.generation import SamplerSettings
    from picoformer.quantize import QuantizeSettings


def _known_scheme(name: str) -> str:
    from picoformer.quantize import SCHEMES

    if name != "float32" and name not in SCHEMES:
        raise ValueError(f"unknown scheme '{name}'; use one of float32, {', '.join(SCHEMES)}")
    return name


def read_bytes(value: Any) -> Any:
    """A number of bytes as a person writes it: 98304, "98304", "96KB" (of 1,000), "96KiB" (of 1,024); MB, MiB.

    Raises ValueError for a text that is none.
    """
    if not isinstance(value, str):
        return value
    units = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", value.lower())
    if found is None or found[2] not in units:
        raise ValueError(f"'{value}' is no number of bytes; write 98304, 96KB or 96KiB")
    return int(float(found[1]) * units[found[2]])


def _tuple(value: Any) -> Any:
    """Lists of TOML as the tuples that frozen sections hold."""
    return tuple(value) if isinstance(value, list) else value


Scheme = Annotated[str, AfterValidator(_known_scheme)]
Positive = Annotated[int, Field(gt=0)]
WideWeights = Annotated[float, Field(ge=0, le=4)] | None
TEXT_SCHEMES = ("float32", "int8x16", "int4x16")
"""Those in picoformer.decoder.quantize (a test compares them)."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSection(_Section):
    """Where samples come from: a data set by name, an .npz that `picoformer dataset` could have written or
    `capture` (samples and "labels", of which a part is held back), or a .txt.

    The last three keys are for text: its tokenizer, how many tokens that has, and how many a window holds.
    """

    source: str = "digits"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    augment: bool = True
    tokenizer: str = "character"
    vocabulary: Positive = 512
    sequence: Positive = 64


class ModelSection(_Section):
    """The shape of a Transformer; keys as in TransformerConfig, `layers`, `heads` and `d_ff` as single numbers.

    The sizes of inputs and the number of classes come from the data.
    """

    layers: Positive
    d_model: Positive
    heads: Positive
    d_ff: Positive
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    norm_position: Literal["pre", "post"] = "pre"
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    pooling: Literal["mean", "cls"] = "mean"
    norm: Literal["layer", "rms"] = "layer"
    gated: bool = False  # the feed-forward is down(activation(gate(x)) * up(x))
    bias: bool = True  # of the linear layers
    kv_heads: Annotated[int, Field(ge=0)] = 0  # heads of keys and values; 0: as many as heads
    causal: bool | None = None  # default: for data that labels every row
    tied_head: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSection:
        if self.d_model % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide d_model = {self.d_model}; change one of them")
        if self.positions == "rotary" and self.d_model // self.heads % 2:
            raise ValueError(
                f"positions = 'rotary' turns pairs, but d_model / heads = {self.d_model // self.heads} is odd; mend one"
            )
        return self

    def transformer(
        self, sample_shape: tuple[int, ...], is_tokens: bool, vocabulary: int, classes: int, labels_rows: bool = False
    ) -> TransformerConfig:
        """The configuration for samples of this shape; raises ConfigError when they do not fit.

        Where every row has a label there is no pooling, and rows see what is before them unless `causal` is false.
        """
        sizes: dict[str, Any] = {"sequence": sample_shape[0], "classes": classes}
        if is_tokens:
            sizes["vocab_size"] = vocabulary
        elif len(sample_shape) == 2:
            sizes["input_size"] = sample_shape[1]
        else:
            raise ConfigError(f"samples of shape {list(sample_shape)}: give (sequence, features) or (sequence,) of ids")
        return TransformerConfig.uniform(
            self.layers,
            self.heads,
            self.d_ff,
            self.d_model,
            activation=self.activation,
            norm_position=self.norm_position,
            final_norm=self.norm_position == "pre",
            positions=self.positions,
            norm=self.norm,
            gated=self.gated,
            attention_bias=self.bias,
            out_bias=self.bias,
            feed_forward_bias=self.bias,
            head_bias=self.bias and not self.tied_head,
            pooling="none" if labels_rows else self.pooling,
            cls_token=self.pooling == "cls" and not labels_rows,
            kv_heads=self.kv_heads or self.heads,
            causal=labels_rows if self.causal is None else self.causal,
            tied_head=self.tied_head,
            **sizes,
        )


class TeacherFile(_Section):
    """A teacher that exists: a checkpoint (.safetensors) or an ONNX file, relative to the TOML file."""

    path: Annotated[str, Field(pattern=r"\.(safetensors|onnx)$")]


class OnnxSection(_Section):
    """Start from a model that exists: paths relative to the TOML file."""

    path: str
    calibration: str
    inputs: str
    training: str = ""  # samples for [qat], with "labels" if they are to count; the calibration samples unless given
    shapes: dict[str, list[Positive]] = {}  # of inputs with dynamic axes


class ExportSection(_Section):
    """How the torch model becomes ONNX."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20


class QuantizationSection(_Section):
    """How the float model becomes integers."""

    scheme: Scheme = "int8"
    method: Literal["minmax", "percentile", "mse"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    samples: Positive = 256
    inputs: Literal["int8", "int16"] = "int8"
    rounding: Literal["nearest", "gptq"] = "gptq"
    bias_correction: bool = True
    widen: Annotated[float, Field(ge=0, le=1)] = 0.01
    equalization: Literal["off", "auto", "on"] = "off"
    budget: Annotated[Positive | None, BeforeValidator(read_bytes)] = None
    block: Literal[0, 32] = 32  # int4 weights that share a multiplier; 0: a scale per output only
    # Bytes, as a share of all constants, that weights may grow by being widened; unless given, a language model's 0.25.
    wide_weights: WideWeights = None

    def settings(self) -> QuantizeSettings:
        """The same for the quantizer."""
        from picoformer.ir import DType
        from picoformer.quantize import QuantizeSettings

        dtype = DType.INT8 if self.inputs == "int8" else DType.INT16
        return QuantizeSettings(
            self.method,
            self.percentile,
            inputs=dtype,
            rounding=self.rounding,
            bias_correction=self.bias_correction,
            widen=self.widen,
            equalization=self.equalization,
            budget=self.budget,
            block=self.block,
            wide_weights=self.wide_weights,
        )


class FirmwareSection(_Section):
    """What to build for."""

    target: str = "mps2-an386"
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "model"
    tile: Annotated[str, Field(pattern=r"^(auto|least|none|\d+(\.\d+)?%)$")] | Annotated[int, Field(gt=0)] = "auto"


class FurtherBuild(_Section):
    """One more build of the same language model; what is left out is as in the first."""

    target: str = ""
    scheme: str = ""
    context: Annotated[int, Field(ge=0)] = 0
    block: Annotated[int, Field(ge=0)] = 0
    wide_weights: WideWeights = None


class GenerationSection(_Section):
    """The model is to write text: it is built as a decoder, writes on its target, and is judged on held-back text.

    `context` is prompt and text together, `block` the tokens of a prompt that are read at once, `windows` (0: all) of
    the test text are foretold by float model and reference, `device_windows` of these by the device, and by
    `verification.samples` of them every form is compared step by step.
    """

    prompts: Annotated[tuple[str, ...], BeforeValidator(_tuple), Field(min_length=1)]
    tokens: Positive = 64
    context: Annotated[int, Field(ge=0)] = 0  # 0: the sequence of [data]
    block: Positive = 8
    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    windows: Annotated[int, Field(ge=0)] = 0
    device_windows: Annotated[int, Field(ge=0)] = 1
    also: Annotated[tuple[FurtherBuild, ...], BeforeValidator(_tuple)] = ()

    @model_validator(mode="after")
    def _choosable(self) -> GenerationSection:
        self.sampler(0)
        return self

    def sampler(self, seed: int) -> SamplerSettings:
        """How tokens are chosen; raises ConfigError."""
        from picoformer.generation import SamplerSettings

        return SamplerSettings(
            self.temperature, self.top_k, self.top_p, 0.0, self.repetition_penalty, seed, self.greedy
        )


class VerificationSection(_Section):
    """How many test samples go through the whole chain (0 means all), and how far from float the end may be."""

    samples: Annotated[int, Field(ge=0)] = 0
    min_sqnr_db: float = 10.0


class PipelineFile(_Section):
    """The whole file. Either [onnx], or [data], [teacher] and [student] with what goes with them."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    output: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataSection | None = None
    onnx: OnnxSection | None = None
    teacher: ModelSection | None = None
    teacher_file: TeacherFile | None = None  # a section [teacher] that holds a path
    teacher_training: TrainSettings | None = None
    student: ModelSection | None = None
    distillation: DistillSettings | None = None
    pruning: PruneSettings | None = None
    recovery: DistillSettings | None = None
    factorization: FactorizeSettings | None = None
    factorization_recovery: DistillSettings | None = None
    export: ExportSection = ExportSection()
    quantization: QuantizationSection = QuantizationSection()
    qat: QatSettings | None = None
    firmware: FirmwareSection = FirmwareSection()
    generation: GenerationSection | None = None
    verification: VerificationSection = VerificationSection()

    @model_validator(mode="before")
    @classmethod
    def _teacher_that_exists(cls, given: Any) -> Any:
        teacher = given.get("teacher") if isinstance(given, dict) else None
        if isinstance(teacher, dict) and "path" in teacher:
            rest = {key: value for key, value in given.items() if key != "teacher"}
            return {**rest, "teacher_file": teacher}
        return given

    @property
    def teaching(self) -> TrainSettings:
        """How the teacher is trained, with this file's seed."""
        return replace(self.teacher_training or TrainSettings(), seed=self.seed)

    @property
    def distilling(self) -> DistillSettings:
        """How the student is distilled, with this file's seed."""
        return replace(self.distillation or DistillSettings(), seed=self.seed)

    @property
    def recovering(self) -> DistillSettings | None:
        """How a pruned model recovers, with this file's seed; None when it does not."""
        return None if self.recovery is None else replace(self.recovery, seed=self.seed)

    @property
    def factorization_recovering(self) -> DistillSettings | None:
        """How a factorized model recovers, with this file's seed; None when it does not."""
        found = self.factorization_recovery
        return None if found is None else replace(found, seed=self.seed)

    @property
    def finetuning(self) -> QatSettings | None:
        """How the integers are trained, with this file's seed; None when they are not."""
        return None if self.qat is None else replace(self.qat, seed=self.seed)

    @model_validator(mode="after")
    def _text_to_write(self) -> PipelineFile:
        if self.generation is None:
            return self
        data = self.data
        if data is None or not (data.source == "python_documentation" or data.source.endswith(".txt")):
            raise ValueError("[generation] needs text to train on; give [data] source a .txt or python_documentation")
        for scheme in (self.quantization.scheme, *(build.scheme for build in self.generation.also if build.scheme)):
            if scheme not in TEXT_SCHEMES:
                raise ValueError(
                    f"scheme '{scheme}' is not for [generation]; use one of {', '.join(TEXT_SCHEMES)} in [quantization]"
                )
        if self.firmware.tile != "auto":
            raise ValueError("[firmware] tile is not for [generation]; remove it")
        return self

    @model_validator(mode="after")
    def _integers_to_train(self) -> PipelineFile:
        if self.qat is not None and self.quantization.scheme == "float32":
            raise ValueError("[qat] needs integers to train; choose another scheme than float32 in [quantization]")
        if self.qat is None and self.onnx is not None and self.onnx.training:
            raise ValueError("[onnx] training is for [qat]; add that section, or leave training out")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> PipelineFile:
        if self.teacher_file is not None and self.teacher_training is not None:
            raise ValueError("[teacher_training] has nothing to train: [teacher] names a file; remove one of them")
        teacher = "teacher" if self.teacher_file is None else "teacher_file"
        trained = [key for key in ("data", teacher, "student") if getattr(self, key) is not None]
        trained = [key.removesuffix("_file") for key in trained]
        if self.onnx is None and len(trained) < 3:
            missing = [key for key in ("data", "teacher", "student") if key not in trained]
            raise ValueError(f"the section [{missing[0]}] is missing; or give [onnx] to start from a model that exists")
        for key in ("recovery", "factorization_recovery"):
            section = getattr(self, key)
            if section is not None and section.init_from_teacher:
                raise ValueError(f"[{key}] init_from_teacher would undo what was compressed; remove it")
        if self.onnx is not None and trained:
            raise ValueError(f"[onnx] and [{trained[0]}] both say where the model comes from; keep one")
        training = (
            "teacher_training",
            "distillation",
            "pruning",
            "recovery",
            "factorization",
            "factorization_recovery",
        )
        idle = [key for key in training if getattr(self, key) is not None]
        if self.onnx is not None and idle:
            raise ValueError(f"[{idle[0]}] needs a model that is trained here, not one from [onnx]; remove it")
        return self


@dataclass(frozen=True)
class Pipeline:
    """A validated pipeline file, where it lies, and where its results go."""

    file: PipelineFile
    path: Path
    output: Path

    @property
    def target(self) -> str | Path:
        """The target's name, or the path of its TOML, which is written relative to this file."""
        return self.target_path(self.file.firmware.target)

    def target_path(self, name: str) -> str | Path:
        """A target's name as it is; the path of a TOML, no longer relative."""
        return self.beside(name) if name.endswith(".toml") or "/" in name else name

    @property
    def pruning(self) -> PruneSettings:
        """[pruning] with this file's seed, its board by name or by a path that no longer is relative."""
        found = self.file.pruning or PruneSettings()
        board = found.board
        if board.endswith(".toml") or "/" in board:
            board = str(self.beside(board))
        return replace(found, board=board, seed=self.file.seed)

    def beside(self, relative: str) -> Path:
        """A path written in the TOML, relative to it."""
        return (self.path.parent / relative).resolve()


def load_pipeline(path: Path) -> Pipeline:
    """Read and validate a pipeline file; raises ConfigError naming the key and its line."""
    file = read_toml(path, PipelineFile)
    output = (path.parent / (file.output or f"build/{file.name}")).resolve()
    return Pipeline(file, path, output)
