"""Einsum of one or two operands as what it is: sums, transposes and one matrix product."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np

from picoformer.errors import ModelError
from picoformer.frontends.onnx_builder import Converter, NodeReader
from picoformer.ops import MatMul, Mul, ReduceMean, Transpose


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand's axes and of the result's, an ellipsis spelled out; ValueError when they do not fit.

    The axes of an ellipsis get the labels '0', '1', …, counted from the end.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"has {len(terms)} terms for {len(ranks)} operands")
    widest = max((rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)), default=0)
    digits = string.digits[: max(widest, 0)]
    operands = []
    for term, rank in zip(terms, ranks, strict=True):
        count = rank - len(term.replace("...", ""))
        if count < 0 or (count and "..." not in term) or widest > len(string.digits):
            raise ValueError(f"says '{term}' of an operand of {rank} axes")
        operands.append(term.replace("...", digits[len(digits) - count :], 1))
    used = "".join(operands)
    if arrow:
        result = right.replace("...", digits, 1)
    else:
        named = sorted({label for label in used if used.count(label) == 1 and label not in digits})
        result = digits + "".join(named)
    wrong = [label for label in used + result if label not in string.ascii_letters + digits]
    if wrong or len(set(result)) < len(result) or not set(result) <= set(used):
        raise ValueError(f"says '{equation}'")
    return operands, result


def einsum(node: NodeReader) -> None:
    """Einsum."""
    ranks = [node.type(index).rank for index in range(len(node.inputs))]
    try:
        operands, result = parse(str(node.attribute("equation", "")), ranks)
    except ValueError as error:
        raise ModelError(f"{node.builder.path}: node '{node.label}' (Einsum) {error}; export again") from None
    if len(operands) > 2 or any(len(set(term)) < len(term) for term in operands):
        raise node.unsupported("takes a diagonal, or more than two operands", "write it as products of two")
    names = list(node.inputs)
    for index, term in enumerate(operands):  # what no other operand has and the result lacks is summed first
        others = set(result).union(*(operands[:index] + operands[index + 1 :]))
        for label in [one for one in term if one not in others]:
            names[index] = _sum(node, names[index], term.index(label) - len(term), label)
            term = term.replace(label, "")
        operands[index] = term
    if len(names) == 1:
        _finish(node, names[0], operands[0], result)
        return
    _product(node, names, operands, result)


def _sum(node: NodeReader, name: str, axis: int, label: str) -> str:
    count = node.builder.type_of(name).shape[axis]
    mean = node.step(ReduceMean(axis, False), [name], f"mean_{label}")
    return node.step(Mul(), [mean, node.constant(np.array(count, np.float32), f"count_{label}")], f"sum_{label}")


def _finish(node: NodeReader, name: str, labels: str, result: str) -> None:
    if labels == result:
        node.give(name)
    else:
        node.finish(Transpose(tuple(labels.index(one) - len(labels) for one in result)), [name])


def _arranged(node: NodeReader, name: str, labels: str, groups: Sequence[str], role: str) -> str:
    """`name` with its axes in the order of `groups`; a group of none or several becomes one axis, the first stays."""
    order = "".join(groups)
    if order != labels:
        permutation = tuple(labels.index(one) - len(labels) for one in order)
        name = node.step(Transpose(permutation), [name], f"{role}_ordered")
    shape = dict(zip(order, node.builder.type_of(name).shape, strict=True))
    kept = [shape[one] for one in groups[0]]
    merged = [math.prod(shape[one] for one in group) for group in groups[1:]]
    return node.reshaped(name, (*kept, *merged), f"{role}_merged")


def _product(node: NodeReader, names: list[str], operands: list[str], result: str) -> None:
    a, b = operands
    both = [one for one in a if one in b]
    batch = "".join(one for one in result if one in both)
    inner = "".join(one for one in a if one in both and one not in result)
    rows = "".join(one for one in result if one in a and one not in b)
    columns = "".join(one for one in result if one in b and one not in a)
    sizes: dict[str, int] = {}
    for name, term in zip(names, operands, strict=True):
        for label, size in zip(term, node.builder.type_of(name).shape, strict=True):
            if 1 not in (size, sizes.get(label, 1)) and sizes[label] != size:
                raise ModelError(f"{node.builder.path}: node '{node.label}' (Einsum) has '{label}' of two sizes")
            sizes[label] = max(size, sizes.get(label, 1))
    if any(
        node.builder.type_of(name).shape[term.index(label)] != sizes[label]
        for name, term in zip(names, operands, strict=True)
        for label in inner
    ):
        raise node.unsupported("repeats an axis that it sums over", "give both operands that axis")
    left = _arranged(node, names[0], a, (batch, rows, inner), "a")
    right = _arranged(node, names[1], b, (batch, inner, columns), "b")
    product = node.step(MatMul(), [left, right], "product")
    shape = tuple(sizes[one] for one in batch + rows + columns)
    _finish(node, node.reshaped(product, shape, "apart"), batch + rows + columns, result)


CONVERTERS: dict[str, Converter] = {"Einsum": einsum}
