"""picoformer as a backend of the `onnx` package: a model becomes float32 C, is compiled for this machine, and runs.

    import onnx, picoformer.onnx_backend as backend
    (logits,) = backend.prepare(onnx.load("model.onnx")).run([x])

ONNX's own conformance tests call a backend this way; see benchmarks/conformance.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.shape_inference
from onnx.backend.base import Backend, BackendRep

from picoformer.errors import DataError
from picoformer.frontends.onnx import load_onnx
from picoformer.frontends.onnx_fix import with_constants
from picoformer.host_library import HostLibrary, build_library
from picoformer.ir import DType
from picoformer.ir.operator import Array
from picoformer.passes import optimize


class PreparedModel(BackendRep):
    """A model that was compiled; `run` it as often as you like, one call at a time."""

    def __init__(self, library: HostLibrary, outputs: Mapping[str, np.dtype[Any]]) -> None:
        super().__init__()
        self.library = library
        self._outputs = dict(outputs)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the file's order and types. `inputs`: arrays in the order of the file's inputs, or by name.

        All is computed in float32, integers in int32, whatever float or integer type the file says. Raises DataError
        for inputs that do not fit the model.
        """
        names = self.library.graph.inputs
        if not isinstance(inputs, Mapping):
            given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(given) != len(names):
                raise DataError(f"the model has the inputs {', '.join(names)}; {len(given)} arrays were given")
            inputs = dict(zip(names, given, strict=True))
        results = self.library.run({name: self._as_stored(name, array) for name, array in inputs.items()})
        return tuple(results[name].astype(dtype) for name, dtype in self._outputs.items())

    def _as_stored(self, name: str, array: Any) -> Array:
        type_ = self.library.graph.types.get(name)
        values: Array = np.asarray(array)
        if type_ is not None and type_.dtype is DType.INT32 and (values != values.astype(np.int32)).any():
            raise DataError(f"input '{name}' holds numbers that are not of 32 bits")
        return values


class PicoformerBackend(Backend):
    """`onnx.backend.base.Backend` by way of C."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the machine's own processor."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", constants: Mapping[str, Array] | None = None, **kwargs: Any
    ) -> PreparedModel:
        """Import, fuse and compile `model`. `constants` fixes inputs: they are weights from then on, and `run` takes
        the others. Raises PicoformerError for what is not covered, ToolError without a compiler."""
        if not cls.supports_device(device):
            raise DataError(f"device {device} is not covered; use CPU")
        with tempfile.TemporaryDirectory(prefix="picoformer-onnx-") as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(with_constants(model, constants or {}).SerializeToString())
            library = build_library(optimize(load_onnx(path)), Path(folder))
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
        return PreparedModel(library, {name: onnx.helper.tensor_dtype_to_np_dtype(t) for name, t in types.items()})

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Compile and run one node; `outputs_info`: (type, shape) of each output, float32 when left out. The keyword
        `opset` says the version, the newest that is read when left out."""
        arrays = [np.asarray(array) for array in inputs]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip((name for name in node.input if name), arrays, strict=True)
        ]
        kinds = [np.dtype(dtype) for dtype, _ in outputs_info or [(np.float32, ())] * len(node.output)]
        outputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(kind), None)
            for name, kind in zip(node.output, kinds, strict=True)
        ]
        graph = onnx.helper.make_graph([node], "node", values, outputs)
        version = int(kwargs.get("opset", OPSET))
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
        return cls.prepare(onnx.shape_inference.infer_shapes(model), device).run(arrays)


OPSET = 23
"""What `run_node` takes a node to be of."""


def prepare(model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
    """See PicoformerBackend.prepare."""
    return PicoformerBackend.prepare(model, device, **kwargs)


def run_model(model: onnx.ModelProto, inputs: Sequence[Any], device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
    """Prepare a model and run it once."""
    return PicoformerBackend.prepare(model, device, **kwargs).run(inputs)


run_node = PicoformerBackend.run_node
supports_device = PicoformerBackend.supports_device
