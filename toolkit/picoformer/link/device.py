"""A device under test, whatever byte pipe leads to it: one method per request, every wait bounded."""

from __future__ import annotations

import time
from collections.abc import Callable

from picoformer.errors import DeviceError
from picoformer.link.faults import Symbolizer, explain
from picoformer.link.frames import FrameReader, encode_frame
from picoformer.link.messages import (
    FAULT_FRAME,
    MEANING,
    REPLY,
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
    write_input_body,
)
from picoformer.link.transport import Transport, TransportClosed

_WRITE_HEADER = 8  # sequence, type, index, offset
_REPLY_HEADER = 3  # sequence, type, status
_HELLO_SECONDS = 1.0  # then the hello is sent again


class RefusedError(DeviceError):
    """The device answered a request with an error status and did nothing."""

    def __init__(self, request: Message, status: int) -> None:
        known = MEANING.get(Status(status), "") if status in set(Status) else f"status {status}"
        super().__init__(f"the device refused '{request.name.lower().replace('_', ' ')}': {known}")
        self.status = status


class NoAnswerError(DeviceError):
    """The device was silent for as long as it may be."""


class FaultError(DeviceError):
    """The device crashed and said so."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class Device:
    """The requests of the wire. Raises DeviceError (or a subclass) when the device is silent, gone, or
    refuses.

    `reply_seconds` bounds the wait for an answer, `run_seconds` that for a run. `symbolize` turns an address
    into a function's name; `post_mortem` says what became of a process whose line closed. `machine` is the
    target's port: whose exceptions a fault frame numbers.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        reply_seconds: float = 10.0,
        run_seconds: float = 120.0,
        symbolize: Symbolizer | None = None,
        post_mortem: Callable[[], str] | None = None,
        machine: str = "cortex_m",
    ) -> None:
        self._transport = transport
        self._reply_seconds = reply_seconds
        self._run_seconds = run_seconds
        self._symbolize = symbolize
        self._post_mortem = post_mortem
        self._machine = machine
        self._reader = FrameReader()
        self._received: list[bytes] = []
        self._sequence = 0
        self._hello: Hello | None = None
        self._tables: dict[Table, list[TensorInfo]] = {}
        self.calls: tuple[int, ...] = ()
        """The step that each call of the last run computed for, in order."""

    def hello(self) -> Hello:
        """Who the device is; asked once, then remembered."""
        if self._hello is None:
            hello = Hello.parse(self._greet())
            if hello.version != WIRE_VERSION:
                raise DeviceError(
                    f"the device speaks version {hello.version} of the protocol, this is {WIRE_VERSION}; rebuild it"
                )
            self._hello = hello
        return self._hello

    def _greet(self) -> bytes:
        """The answer to a hello that may be sent again: a device that has just started may not listen yet."""
        end = time.monotonic() + self._reply_seconds
        while True:
            try:
                self._transport.write(b"\0", self._reply_seconds)  # ends whatever stood on the line
            except TransportClosed as error:
                raise DeviceError(self._gone(error)) from error
            left = end - time.monotonic()
            try:
                return self._ask(Message.HELLO, b"", max(min(left, _HELLO_SECONDS), 0.0))
            except RefusedError:  # half a frame, of ours or of somebody before us, was answered
                if left <= 0:
                    raise
            except NoAnswerError:
                if left <= _HELLO_SECONDS:
                    raise

    def tensors(self, table: Table) -> list[TensorInfo]:
        """The device's inputs, outputs or steps, with names and sizes in bytes; asked once, then
        remembered."""
        if table not in self._tables:
            hello = self.hello()
            count = (hello.input_count, hello.output_count, hello.step_count)[table]
            found: list[TensorInfo] = []
            while len(found) < count:
                some = parse_describe(self._ask(Message.DESCRIBE, bytes([table]) + len(found).to_bytes(2, "little")))
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
        part = self.hello().frame_bytes - _WRITE_HEADER
        for offset in range(0, len(data), part):
            self._ask(Message.WRITE_INPUT, write_input_body(index, offset, data[offset : offset + part]))

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
            cycles = hello.has_cycles
        flags = RunFlags.CRC * crc | RunFlags.CYCLES * cycles | RunFlags.OUTPUTS * outputs
        flags = RunFlags(flags)
        tensors = self.tensors(Table.OUTPUTS) if outputs else []
        stream = self._ask_stream(run_body(flags, until))
        try:
            result = parse_run(stream, flags, until, tensors)
        except ValueError as error:
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
        data = self._ask_stream(run_body(RunFlags.STEP, index))
        self.calls = ()
        if len(data) != wanted:
            raise DeviceError(f"the device sent {len(data)} bytes of '{tensor.name}', not {wanted}; rebuild it")
        return data

    def read_output(self, index: int) -> bytes:
        """The whole of output `index`, after a run to the end."""
        size = self._tensor(Table.OUTPUTS, index).size
        part = self.hello().frame_bytes - _REPLY_HEADER
        chunks = []
        for offset in range(0, max(size, 1), part):
            length = min(part, size - offset)
            chunk = self._ask(Message.READ_OUTPUT, read_body(index, offset, length))
            if len(chunk) != length:
                raise DeviceError(f"the device sent {len(chunk)} bytes where {length} were asked for; rebuild it")
            chunks.append(chunk)
        return b"".join(chunks)

    def stack(self) -> Stack:
        """Bytes of stack reserved and used since the start or the last reset, the wire's own frames
        included."""
        return Stack.parse(self._ask(Message.STACK, b""))

    def reset(self) -> None:
        """Back to before the first step; inputs count as unwritten, the stack as unused."""
        self._ask(Message.RESET, b"")

    def fault_test(self, kind: int) -> None:
        """Provoke a fault (firmware built for it): 1 bad write, 2 bad call, 3 stack overflow, 4 hang, 5
        undefined."""
        self._ask(Message.FAULT_TEST, bytes([kind]), self._run_seconds)

    def ask(self, request: Message, payload: bytes = b"", *, runs: bool = False) -> bytes:
        """The payload of the answer to a request; one that `runs` the model may take as long as a run."""
        return self._ask(request, payload, self._run_seconds if runs else None)

    def ask_frames(self, request: Message, payload: bytes) -> bytes:
        """The joined payloads of an answer in as many frames as it takes."""
        self._send(request, payload)
        return self._frames(request)

    def close(self) -> None:
        """Let go of the line."""
        self._transport.close()

    def _tensor(self, table: Table, index: int) -> TensorInfo:
        tensors = self.tensors(table)
        if not 0 <= index < len(tensors):
            raise DeviceError(f"the device has no {table.name.lower()[:-1]} {index}; it has {len(tensors)}")
        return tensors[index]

    def _ask(self, request: Message, payload: bytes, seconds: float | None = None) -> bytes:
        self._send(request, payload)
        return self._reply(request, time.monotonic() + (self._reply_seconds if seconds is None else seconds))

    def _ask_stream(self, payload: bytes) -> bytes:
        self._send(Message.RUN, payload)
        return self._frames(Message.RUN)

    def _frames(self, request: Message) -> bytes:
        end = time.monotonic() + self._run_seconds
        parts = []
        while True:
            part = self._reply(request, end)
            if not part:
                raise DeviceError("the device's run has no content; rebuild its firmware")
            parts.append(part[1:])
            if part[0] == 0:
                return b"".join(parts)

    def _send(self, request: Message, payload: bytes) -> None:
        self._sequence = (self._sequence % 255) + 1
        try:
            self._transport.write(encode_frame(bytes([self._sequence, request]) + payload), self._reply_seconds)
        except TransportClosed as error:
            self._raise_waiting_fault()
            raise DeviceError(self._gone(error)) from error

    def _reply(self, request: Message, end: float) -> bytes:
        while True:
            body = self._next_body(request, end)
            if len(body) < _REPLY_HEADER:
                continue
            sequence, kind, status = body[:_REPLY_HEADER]
            if kind == FAULT_FRAME:
                self._raise_fault(body)
            lost = sequence == 0 and kind == REPLY and status != Status.OK  # our frame did not arrive whole
            if lost or (sequence == self._sequence and kind == request | REPLY):
                if status != Status.OK:
                    raise RefusedError(request, status)
                return body[_REPLY_HEADER:]

    def _next_body(self, request: Message, end: float) -> bytes:
        while not self._received:
            left = end - time.monotonic()
            try:
                data = self._transport.read(left) if left > 0 else b""
            except TransportClosed as error:
                raise DeviceError(self._gone(error)) from error
            if not data and time.monotonic() >= end:
                broken = f" ({self._reader.broken} damaged frames arrived)" if self._reader.broken else ""
                raise NoAnswerError(
                    f"timeout: the device did not answer '{request.name.lower().replace('_', ' ')}'{broken}; "
                    "it hangs, or is no picoformer firmware"
                )
            self._received += self._reader.feed(data)
        return self._received.pop(0)

    def _raise_waiting_fault(self) -> None:
        """The line is closed: a fault frame may still lie in it."""
        try:
            while data := self._transport.read(0.2):
                self._received += self._reader.feed(data)
        except DeviceError:
            pass
        for body in self._received:
            if len(body) > _REPLY_HEADER and body[1] == FAULT_FRAME:
                self._raise_fault(body)

    def _raise_fault(self, body: bytes) -> None:
        fault = Fault.parse(body[_REPLY_HEADER:])
        steps = self._tables.get(Table.STEPS, [])
        raise FaultError(explain(fault, self._symbolize, steps, self._machine), fault)

    def _gone(self, error: TransportClosed) -> str:
        return f"the device died: {self._post_mortem()}" if self._post_mortem else str(error)
