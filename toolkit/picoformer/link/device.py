"""A device under test, whatever byte pipe leads to it: one method per request, every wait bounded."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import TypeVar

from picoformer.errors import DeviceError
from picoformer.link.boot import greet
from picoformer.link.exchange import (
    REPLY_HEADER,
    BrokenStreamError,
    ClosedError,
    DamagedError,
    Exchange,
    FaultError,
    NoAnswerError,
    RefusedError,
    RestartedError,
)
from picoformer.link.faults import Symbolizer, explain
from picoformer.link.messages import (
    IN_PARTS,
    WIRE_VERSION,
    Fault,
    Hello,
    Message,
    RunFlags,
    RunResult,
    Stack,
    Status,
    Table,
    TensorInfo,
    parse_describe,
    parse_run,
    read_body,
    run_body,
    run_check,
    write_input_body,
)
from picoformer.link.transport import Transport

__all__ = [
    "BrokenStreamError",
    "ClosedError",
    "DamagedError",
    "Device",
    "FaultError",
    "NoAnswerError",
    "RefusedError",
    "RestartedError",
]

_WRITE_HEADER = 8  # sequence, type, index, offset
_LEAST_FRAME = 64
_ANEW = (Status.INPUT_MISSING, Status.NOT_THESE)

Answer = TypeVar("Answer")


class Device:
    """The requests of the wire. Raises DeviceError (one of `exchange`'s) when the device is silent, gone, or refuses.

    `reply_seconds`, `repeat_seconds`, `poke_seconds` and `repeats` are those of `Exchange`, as are `post_mortem`,
    `on_log` and `reopen`; `run_seconds` bounds a run. `symbolize` turns an address into a function's name. `machine`
    is the target's port: whose exceptions a fault frame numbers. A run whose answer was lost, or whose device
    restarted, is made again from its inputs at most `restarts` times; where a device keeps what earlier runs left, a
    restart is an error. `asks_cycles`: a run asks for cycles where the device counts them, which an emulated
    counter does not.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        reply_seconds: float = 10.0,
        run_seconds: float = 120.0,
        repeat_seconds: float = 1.0,
        poke_seconds: float = 10.0,
        repeats: int = 8,
        restarts: int = 3,
        symbolize: Symbolizer | None = None,
        post_mortem: Callable[[], str] | None = None,
        machine: str = "cortex_m",
        on_log: Callable[[str], None] | None = None,
        reopen: Callable[[], Transport] | None = None,
        asks_cycles: bool = True,
    ) -> None:
        self.exchange = Exchange(
            transport,
            reply_seconds=reply_seconds,
            repeat_seconds=repeat_seconds,
            poke_seconds=poke_seconds,
            repeats=repeats,
            explain=self._explain,
            on_log=on_log,
            post_mortem=post_mortem,
            reopen=reopen,
        )
        self._run_seconds = run_seconds
        self._restarts = restarts
        self._asks_cycles = asks_cycles
        self._symbolize = symbolize
        self._machine = machine
        self._hello: Hello | None = None
        self._tables: dict[Table, list[TensorInfo]] = {}
        self._inputs: dict[int, bytes] = {}  # written since the last run
        self._mark = 0  # of the last reset
        self.calls: tuple[int, ...] = ()
        """The step that each call of the last run computed for, in order."""

    def hello(self) -> Hello:
        """Who the device is; asked once, then remembered."""
        if self._hello is None:
            self._hello = self._through_restarts(self._meet, self._meet)
        return self._hello

    def _meet(self) -> Hello:
        """Who answers now; DeviceError where that is not who answered before, or speaks another version."""
        hello = _parsed(Hello.parse, greet(self.exchange), Message.HELLO)
        if hello.version != WIRE_VERSION:
            raise DeviceError(
                f"the device speaks version {hello.version} of the protocol, this is {WIRE_VERSION}; rebuild it"
            )
        if hello.frame_bytes < _LEAST_FRAME:
            raise DeviceError(f"the device takes frames of {hello.frame_bytes} bytes only; rebuild its firmware")
        if self._hello is not None and hello != self._hello:
            raise DeviceError(f"another device answers now: '{hello.name}' in place of '{self._hello.name}'")
        return hello

    def tensors(self, table: Table) -> list[TensorInfo]:
        """The device's inputs, outputs or steps, with names and sizes in bytes; asked once, then
        remembered."""
        if table not in self._tables:
            hello = self.hello()
            count = (hello.input_count, hello.output_count, hello.step_count)[table]
            found: list[TensorInfo] = []
            while len(found) < count:
                request = struct.pack("<BH", table, len(found))
                data = self.ask_again(Message.DESCRIBE, request)
                some = _parsed(parse_describe, data, Message.DESCRIBE)
                if not some:
                    raise DeviceError("the device described no tensor where there must be one; rebuild its firmware")
                found += some
            self._tables[table] = found
        return self._tables[table]

    def write_input(self, index: int, data: bytes) -> None:
        """Write the whole of input `index`."""
        inputs = self.tensors(Table.INPUTS)
        if not 0 <= index < len(inputs):
            raise DeviceError(f"the device has no input {index}; it has {len(inputs)}")
        if len(data) != inputs[index].size:
            raise DeviceError(f"input {inputs[index].name!r} takes {inputs[index].size} bytes, not {len(data)}")
        if self.hello().writes_text and not self._mark:
            self.reset()  # so that a restart, which loses what it keeps, does not pass unseen
        self._inputs[index] = data
        self._through_restarts(lambda: self._write(index), self._write_all)

    def run(
        self,
        crc: bool = False,
        until: int | None = None,
        *,
        cycles: bool | None = None,
        outputs: bool = False,
        part: range | None = None,
    ) -> RunResult:
        """Run from the start until step `until` is complete (None: to the end), on inputs written since the
        last run.

        `crc`: CRC-32 of every step's output; `cycles`: counts (None: if the device has a counter); `outputs`:
        the outputs' bytes in the same reply; `part`: the steps that this run has, where it is not all of them.
        """
        hello = self.hello()
        if cycles is None:
            cycles = hello.has_cycles and self._asks_cycles
        flags = RunFlags.CRC * crc | RunFlags.CYCLES * cycles | RunFlags.OUTPUTS * outputs
        flags = RunFlags(flags)
        tensors = self.tensors(Table.OUTPUTS) if outputs else []
        stream = self._run(flags, until)
        try:
            result = parse_run(stream, flags, until, tensors)
        except (ValueError, struct.error) as error:
            raise DeviceError(f"the device's run makes no sense: {error}; rebuild its firmware") from error
        self.calls = result.calls
        if until is None and set(result.calls) != set(part or range(hello.step_count)):
            raise DeviceError("the device's run left steps out; rebuild its firmware")
        return result

    def run_for_step(self, index: int, size: int | None = None) -> bytes:
        """The whole of step `index`'s output: runs until it is complete, on inputs written since the last run. `size`:
        its bytes, where a block has fewer rows than it may have."""
        tensor = self._tensor(Table.STEPS, index)
        wanted = tensor.size if size is None else size
        data = self._run(RunFlags.STEP, index)
        self.calls = ()
        if len(data) != wanted:
            raise DeviceError(f"the device sent {len(data)} bytes of '{tensor.name}', not {wanted}; rebuild it")
        return data

    def read_output(self, index: int) -> bytes:
        """The whole of output `index`, after a run to the end."""
        size = self._tensor(Table.OUTPUTS, index).size
        part = self.hello().frame_bytes - REPLY_HEADER
        chunks = []
        for offset in range(0, max(size, 1), part):
            length = min(part, size - offset)
            chunk = self.ask(Message.READ_OUTPUT, read_body(index, offset, length))
            if len(chunk) != length:
                raise DeviceError(f"the device sent {len(chunk)} bytes where {length} were asked for; rebuild it")
            chunks.append(chunk)
        return b"".join(chunks)

    def stack(self) -> Stack:
        """Bytes of stack reserved and used since the start or the last reset, the wire's own frames
        included."""
        return _parsed(Stack.parse, self.ask(Message.STACK), Message.STACK)

    def reset(self) -> None:
        """Back to before the first step; inputs count as unwritten, the stack as unused, states become zeros. A run
        after it is refused if the device restarted in between."""
        mark = secrets.randbits(32) or 1
        self.ask(Message.RESET, struct.pack("<I", mark))
        self._mark, self._inputs = mark, {}

    def fault_test(self, kind: int) -> None:
        """Provoke a fault (firmware built for it): 1 bad write, 2 bad call, 3 stack overflow, 4 hang, 5
        undefined."""
        self.exchange.ask(Message.FAULT_TEST, bytes([kind]), seconds=self._run_seconds)

    def ask(self, request: Message, payload: bytes = b"") -> bytes:
        """The payload of the answer to a request; that to one that runs the model may take as long as a run."""
        if request in IN_PARTS:
            return self.exchange.stream(request, payload, seconds=self._run_seconds)
        return self.exchange.ask(request, payload)

    def ask_again(self, request: Message, payload: bytes) -> bytes:
        """`ask` for a request that needs nothing and leaves nothing behind: where parts of its answer are lost, or the
        device restarted, it is made anew."""
        ask = lambda: self.ask(request, payload)  # noqa: E731
        return self._through_restarts(ask, ask)

    def close(self) -> None:
        """Let go of the line."""
        self.exchange.close()

    def _tensor(self, table: Table, index: int) -> TensorInfo:
        tensors = self.tensors(table)
        if not 0 <= index < len(tensors):
            raise DeviceError(f"the device has no {table.name.lower()[:-1]} {index}; it has {len(tensors)}")
        return tensors[index]

    def _write(self, index: int) -> None:
        part, data = self.hello().frame_bytes - _WRITE_HEADER, self._inputs[index]
        for offset in range(0, len(data), part):
            self.ask(Message.WRITE_INPUT, write_input_body(index, offset, data[offset : offset + part]))

    def _write_all(self) -> None:
        for index in sorted(self._inputs):
            self._write(index)

    def _run(self, flags: RunFlags, until: int | None) -> bytes:
        """The stream of a run on the inputs that were written since the last one."""
        inputs = [self._inputs[index] for index in sorted(self._inputs)]
        request = run_body(flags, until, run_check(self._mark, inputs))

        def again() -> bytes:
            self._write_all()
            return self.ask(Message.RUN, request)

        try:
            stream = self._through_restarts(lambda: self.ask(Message.RUN, request), again)
        except RefusedError as error:
            if error.status == Status.STEP_FAILED:
                self._inputs = {}
            raise
        self._inputs = {}
        return stream

    def _through_restarts(self, first: Callable[[], Answer], again: Callable[[], Answer]) -> Answer:
        """What `first` gives or, where the device lost its inputs or its answer was lost, `again`."""
        act, has_restarted = first, False
        for left in reversed(range(self._restarts + 1)):
            try:
                if has_restarted and self._hello is not None:
                    self._meet()
                return act()
            except RestartedError:
                if left == 0 or self._mark:
                    raise
                has_restarted = True
            except BrokenStreamError:
                if left == 0:
                    raise
            except RefusedError as error:
                is_whole = self._hello is not None and len(self._inputs) == self._hello.input_count
                if left == 0 or error.status not in _ANEW or not is_whole:
                    raise
            act = again
        raise AssertionError("the last try returns or raises")

    def _explain(self, fault: Fault) -> str:
        return explain(fault, self._symbolize, self._tables.get(Table.STEPS, []), self._machine)


def _parsed(parse: Callable[[bytes], Answer], data: bytes, request: Message) -> Answer:
    try:
        return parse(data)
    except (struct.error, ValueError, IndexError):
        name = request.name.lower()
        raise DeviceError(f"the device's answer to '{name}' makes no sense; rebuild its firmware") from None
