"""LSTM layers over packed rows, plain and layer-normalised, with hand-written gradients.

Why not nn.LSTM: its fused CPU kernel takes no packed input, computes on the padding, and there is no layer-normalised
one. Here everything that does not depend on the previous step is one matrix product over all rows; what is left in the
loop over time is one product and a handful of element-wise operations a step, and the gradients of all weights are one
product each after the loop. Gates are in PyTorch's order i, f, g, o.

Shape legend: S packed rows (see packing.py), D input width, H hidden width, n rows of one step.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from models.neumatch.products import linear, outer, product

State = tuple[Tensor, Tensor]
"""Hidden and cell state, each (n, H)."""

EPS = 1e-5


def _previous_rows(batch_sizes: Sequence[int], device: torch.device) -> Tensor:
    """For each packed row after the first step, the row of the same sequence one step earlier."""
    rows, start = [], 0
    for before, now in pairwise(batch_sizes):
        rows.append(torch.arange(start, start + now))
        start += before
    return torch.cat(rows).to(device) if rows else torch.empty(0, dtype=torch.int64, device=device)


def _by_step(tensor: Tensor, batch_sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The rows of each step, as views; one call, because slicing in the loop costs as much as its arithmetic."""
    views: tuple[Tensor, ...] = tensor.split(batch_sizes)
    return views


def _by_gate(gates: Tensor) -> tuple[Tensor, ...]:
    """(S, 4H) -> views (S, 2H) of i and f together, and (S, H) of i, f, g, o."""
    hidden = gates.shape[1] // 4
    return gates[:, : 2 * hidden], *gates.chunk(4, 1)


def _gate_slopes(gates: Tensor, cells: Tensor, bounded: Tensor, before: int, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Everything of the backward pass that does not depend on the incoming gradient.

    Returns (S, 4, H): d(cell)/d(pre-activation) of i, f, g and d(hidden)/d(pre-activation) of o; and (S, H):
    d(hidden)/d(cell).
    """
    total, hidden = cells.shape
    slopes = torch.empty(total, 4, hidden, dtype=gates.dtype, device=gates.device)
    _, i, f, g, o = _by_gate(gates)
    to_i, to_f, to_g, to_o = slopes.unbind(1)
    # Fused: sigmoid_backward(x, y) is x y (1 - y), tanh_backward(x, y) is x (1 - y^2).
    torch.ops.aten.sigmoid_backward.grad_input(g, i, grad_input=to_i)
    to_f[:before] = 0  # the first step has no cell before it
    torch.ops.aten.sigmoid_backward.grad_input(cells.index_select(0, previous), f[before:], grad_input=to_f[before:])
    torch.ops.aten.tanh_backward.grad_input(i, g, grad_input=to_g)
    torch.ops.aten.sigmoid_backward.grad_input(bounded, o, grad_input=to_o)
    return slopes, torch.ops.aten.tanh_backward(o, bounded)


def _owned(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A copy that may be overwritten; zeros where nobody asked for the gradient."""
    return torch.zeros_like(like) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)


class _PackedLSTM(torch.autograd.Function):
    """h_t, c_t of an LSTM whose input part of the gates (biases included) is given for all rows at once."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_hh: Tensor, batch_sizes: tuple[int, ...]) -> State:
        total, hidden = inputs.shape[0], weight_hh.shape[1]
        gates = inputs.clone()
        cells, bounded, hiddens = (inputs.new_empty(total, hidden) for _ in range(3))
        recurrent = weight_hh.t().contiguous()  # faster than the transposed view, and read at every step
        parts = (_by_step(part, batch_sizes) for part in (gates, *_by_gate(gates), cells, bounded, hiddens))
        h = c = hiddens[:0]
        for step, (gate, both, i, f, g, o, cell, bound, now) in enumerate(zip(*parts, strict=True)):
            n = len(gate)
            if step:
                gate.add_(product(h[:n], recurrent))
            both.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(i, g, out=cell)
            if step:
                cell.addcmul_(f, c[:n])
            torch.tanh(cell, out=bound)
            torch.mul(o, bound, out=now)
            h, c = now, cell
        ctx.save_for_backward(gates, cells, bounded, hiddens, weight_hh)
        ctx.batch_sizes = batch_sizes
        ctx.set_materialize_grads(False)  # most callers use the hidden states alone
        return hiddens, cells

    @staticmethod
    def backward(
        ctx: Any, grad_hiddens: Tensor | None, grad_cells: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        gates, cells, bounded, hiddens, weight_hh = ctx.saved_tensors
        sizes: tuple[int, ...] = ctx.batch_sizes
        total, hidden = cells.shape
        before = sizes[0] if sizes else 0
        previous = _previous_rows(sizes, gates.device)
        slopes, cell_slope = _gate_slopes(gates, cells, bounded, before, previous)
        forget = gates.view(total, 4, hidden)[:, 1]
        grad_gates = torch.empty_like(slopes)
        flat = grad_gates.flatten(1)
        grads = (_owned(grad_hiddens, cells), _owned(grad_cells, cells))
        constants = (cell_slope, slopes[:, :3], slopes[:, 3], forget)
        results = (grad_gates[:, :3], grad_gates[:, 3], flat)
        steps = zip(*(_by_step(part, sizes) for part in (*grads, *constants, *results)), strict=True)
        grad_h = grad_c = cells[:0]
        for dh, dc, by_cell, cell_slopes, o_slope, f, to_cell, to_o, now in reversed(list(steps)):
            if carried := len(grad_h):  # the rows that go on to a later step
                dh[:carried] += grad_h
                dc[:carried] += grad_c
            dc.addcmul_(dh, by_cell)
            torch.mul(cell_slopes, dc[:, None], out=to_cell)
            torch.mul(o_slope, dh, out=to_o)
            grad_h = product(now, weight_hh)
            grad_c = dc.mul_(f)
        grad_weight = outer(flat[before:], hiddens.index_select(0, previous))
        return flat, grad_weight, None


class _PackedLayerNormLSTM(torch.autograd.Function):
    """As _PackedLSTM, with layer norms on the recurrent part of the gates and on the cell."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight_hh: Tensor,
        gate_scale: Tensor,
        gate_shift: Tensor,
        cell_scale: Tensor,
        cell_shift: Tensor,
        batch_sizes: tuple[int, ...],
    ) -> State:
        total, hidden = inputs.shape[0], weight_hh.shape[1]
        gates = inputs + gate_shift
        raw_gates = torch.zeros_like(inputs)
        raw_cells, cells, bounded, hiddens = (inputs.new_empty(total, hidden) for _ in range(4))
        gate_mean, gate_rstd, cell_mean, cell_rstd = (inputs.new_zeros(total, 1) for _ in range(4))
        recurrent, start, previous = weight_hh.t().contiguous(), 0, 0
        both, _, _, new, out = _by_gate(gates)
        for step, n in enumerate(batch_sizes):
            now, then = slice(start, start + n), slice(previous, previous + n)
            gate, raw = gates[now], raw_cells[now]
            if step:
                raw_gates[now] = product(hiddens[then], recurrent)
                normed, gate_mean[now], gate_rstd[now] = torch.native_layer_norm(
                    raw_gates[now], [4 * hidden], gate_scale, None, EPS
                )
                gate.add_(normed)
            both[now].sigmoid_()
            new[now].tanh_()
            out[now].sigmoid_()
            i, f, g, o = gate.chunk(4, 1)
            torch.mul(i, g, out=raw)
            if step:
                raw.addcmul_(f, cells[then])
            cells[now], cell_mean[now], cell_rstd[now] = torch.native_layer_norm(
                raw, [hidden], cell_scale, cell_shift, EPS
            )
            torch.tanh(cells[now], out=bounded[now])
            torch.mul(o, bounded[now], out=hiddens[now])
            previous, start = start, start + n
        ctx.save_for_backward(
            gates, raw_gates, raw_cells, cells, bounded, hiddens, weight_hh, gate_scale, cell_scale, cell_shift,
            gate_mean, gate_rstd, cell_mean, cell_rstd,
        )  # fmt: skip
        ctx.batch_sizes = batch_sizes
        ctx.set_materialize_grads(False)
        return hiddens, cells

    @staticmethod
    def backward(ctx: Any, grad_hiddens: Tensor | None, grad_cells: Tensor | None) -> tuple[Tensor | None, ...]:
        (
            gates, raw_gates, raw_cells, cells, bounded, hiddens, weight_hh, gate_scale, cell_scale, cell_shift,
            gate_mean, gate_rstd, cell_mean, cell_rstd,
        ) = ctx.saved_tensors  # fmt: skip
        sizes: tuple[int, ...] = ctx.batch_sizes
        total, hidden = cells.shape
        before = sizes[0] if sizes else 0
        previous = _previous_rows(sizes, gates.device)
        slopes, cell_slope = _gate_slopes(gates, cells, bounded, before, previous)
        forget = gates.view(total, 4, hidden)[:, 1]
        grad_gates = torch.empty_like(slopes)
        grad_raw_gates = torch.empty_like(raw_gates)
        grad_normed_cells = torch.empty_like(cells)
        grads_h, grads_c = _owned(grad_hiddens, cells), _owned(grad_cells, cells)
        end, carried = total, 0
        grad_h = grad_c = cells[:0]
        for n in reversed(sizes):
            now = slice(end - n, end)
            dh, dc = grads_h[now], grads_c[now]
            if carried:
                dh[:carried] += grad_h
                dc[:carried] += grad_c
            dc.addcmul_(dh, cell_slope[now])
            grad_normed_cells[now] = dc
            raw = torch.ops.aten.native_layer_norm_backward(
                dc, raw_cells[now], [hidden], cell_mean[now], cell_rstd[now], cell_scale, cell_shift,
                [True, False, False],
            )[0]  # fmt: skip
            torch.mul(slopes[now, :3], raw[:, None], out=grad_gates[now, :3])
            torch.mul(slopes[now, 3], dh, out=grad_gates[now, 3])
            if end > n:
                grad_raw_gates[now] = torch.ops.aten.native_layer_norm_backward(
                    grad_gates[now].flatten(1), raw_gates[now], [4 * hidden], gate_mean[now], gate_rstd[now],
                    gate_scale, None, [True, False, False],
                )[0]  # fmt: skip
                grad_h = product(grad_raw_gates[now], weight_hh)
                grad_c = raw * forget[now]
            end, carried = end - n, n
        flat = grad_gates.flatten(1)
        grad_weight = outer(grad_raw_gates[before:], hiddens.index_select(0, previous))
        normed_gates = (raw_gates - gate_mean) * gate_rstd
        normed_cells = (raw_cells - cell_mean) * cell_rstd
        return (
            flat,
            grad_weight,
            (flat * normed_gates).sum(0),
            flat.sum(0),
            (grad_normed_cells * normed_cells).sum(0),
            grad_normed_cells.sum(0),
            None,
        )


class LSTMLayer(nn.Module):
    """One LSTM layer. Initialisation as in the paper: Xavier normal input weights, orthogonal recurrent weights,
    N(0, 0.1) biases with both forget-gate biases at 1 (spec section 4)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, width))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden))
        nn.init.xavier_normal_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)
        for bias in (self.bias_ih, self.bias_hh):
            nn.init.normal_(bias, 0.0, 0.1)
            nn.init.ones_(bias[hidden : 2 * hidden])

    def forward(self, x: Tensor, batch_sizes: tuple[int, ...] | None, state: State | None = None) -> State:
        """Whole sequences: (S, D) packed rows -> hidden and cell states (S, H) of every element. With `state`
        (`batch_sizes` None): one step of n rows -> the state after. One entry for both, because ZeRO-3 brings a
        module's weights together only around its forward."""
        if state is not None or batch_sizes is None:
            if state is None:
                raise ValueError("give either batch_sizes or state")
            return self._step(x, *state)
        inputs = linear(x, self.weight_ih, self.bias_ih + self.bias_hh)
        hiddens, cells = _PackedLSTM.apply(inputs, self.weight_hh, batch_sizes)  # type: ignore[no-untyped-call]
        return hiddens, cells

    def _step(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        gates = linear(x, self.weight_ih, self.bias_ih + self.bias_hh) + linear(h, self.weight_hh)
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class LayerNormLSTMLayer(nn.Module):
    """One layer-normalised LSTM layer: gates = LN(W_x x) + LN(W_h h), c' = LN(f c + i g) (spec section 4)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, width))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.norm_input = nn.LayerNorm(4 * hidden, EPS)
        self.norm_hidden = nn.LayerNorm(4 * hidden, EPS)
        self.norm_cell = nn.LayerNorm(hidden, EPS)
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)

    def forward(self, x: Tensor, batch_sizes: tuple[int, ...] | None, state: State | None = None) -> State:
        """Whole sequences: (S, D) packed rows -> hidden and cell states (S, H) of every element. With `state`
        (`batch_sizes` None): one step of n rows -> the state after. One entry for both, because ZeRO-3 brings a
        module's weights together only around its forward."""
        if state is not None or batch_sizes is None:
            if state is None:
                raise ValueError("give either batch_sizes or state")
            return self._step(x, *state)
        inputs = self.norm_input(linear(x, self.weight_ih))
        hiddens, cells = _PackedLayerNormLSTM.apply(  # type: ignore[no-untyped-call]
            inputs,
            self.weight_hh,
            self.norm_hidden.weight,
            self.norm_hidden.bias,
            self.norm_cell.weight,
            self.norm_cell.bias,
            batch_sizes,
        )
        return hiddens, cells

    def _step(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        gates = self.norm_input(linear(x, self.weight_ih)) + self.norm_hidden(linear(h, self.weight_hh))
        i, f, g, o = gates.chunk(4, 1)
        c = self.norm_cell(f.sigmoid() * c + i.sigmoid() * g.tanh())
        return o.sigmoid() * c.tanh(), c


class RecurrentStack(nn.Module):
    """Two LSTM layers, one on top of the other (Video, Text, Action and Matched Stack all are)."""

    def __init__(self, width: int, hidden: int, layer_norm: bool) -> None:
        super().__init__()
        layer = LayerNormLSTMLayer if layer_norm else LSTMLayer
        self.hidden = hidden
        self.layer1 = layer(width, hidden)
        self.layer2 = layer(hidden, hidden)

    def forward(self, x: Tensor, batch_sizes: tuple[int, ...]) -> tuple[State, State]:
        """(S, D) packed rows -> the states (S, H) of both layers at every element."""
        first = self.layer1(x, batch_sizes)
        return first, self.layer2(first[0], batch_sizes)

    def step(self, x: Tensor, states: tuple[State, State]) -> tuple[State, State]:
        """One step of both layers for n rows."""
        first = self.layer1(x, None, states[0])
        return first, self.layer2(first[0], None, states[1])

    def start(self, rows: int, like: Tensor) -> tuple[State, State]:
        """Zero states for n rows."""
        zero = like.new_zeros(rows, self.hidden)
        return (zero, zero), (zero, zero)
