"""Conversion of the module that user code built to a frozen one that can be hooked and run."""

import re
import sys

import torch
from torch import Tensor, nn

from layer_atlas.errors import UserError
from layer_atlas.models.containment import tensors_of

_QUANTIZED = re.compile("quantized|FakeQuantize")

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def converted(
    network: nn.Module, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> nn.Module:
    """Convert a network in place and return it.

    Floating-point tensors become `dtype`. Complex ones become complex64, the counterpart of
    float32; integers are unchanged. With `channels_last` only the weights of two-dimensional
    convolutions change layout: the network's code may view other tensors of four axes.
    """

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, torch.complex64)
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    # `_apply` instead of `to`: `to` would drop the imaginary parts of complex tensors.
    network._apply(convert)  # type: ignore[no-untyped-call]
    for module in network.modules():
        if channels_last and isinstance(module, _CONVOLUTIONS):
            for weight in module.parameters(recurse=False):
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def in_fp32(network: nn.Module) -> nn.Module:
    """Convert a network on the CPU to fp32, in place, and return it."""
    return converted(network, torch.device("cpu"), torch.float32, channels_last=False)


def frozen(network: nn.Module, label: str) -> nn.Module:
    """Put a network in eval mode, disable gradients of its parameters, and return it.

    Raises:
        UserError: its `eval()` fails.
    """
    try:
        network.eval()  # an overridden eval() need not return the network
    except Exception as error:
        raise UserError(f"eval() of model {label!r} failed: {error!r}.") from error
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def share_memory(network: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have a tensor in common."""
    addresses = {tensor.data_ptr() for tensor in tensors_of(other) if tensor.numel()}
    return any(tensor.data_ptr() in addresses for tensor in tensors_of(network) if tensor.numel())


def run_as_written() -> None:
    """Run compiled networks as plain Python from now on: compiled code bypasses hooks."""
    if "torch._dynamo" in sys.modules:  # nothing is compiled without it
        torch.compiler.set_stance("force_eager")


def check_kind(network: nn.Module, label: str) -> None:
    """Reject networks that cannot be hooked or differentiated.

    Raises:
        UserError: names the kind and the alternative.
    """
    # By name, so that no export or quantization package needs to be imported.
    kinds = {
        f"{base.__module__}.{base.__name__}"
        for module in network.modules()
        for base in type(module).__mro__
    }
    if isinstance(network, torch.jit.ScriptModule):
        what, remedy = "a TorchScript module", "give the Python class and its state dict"
    elif any(kind.startswith("torch.export") for kind in kinds):
        what, remedy = "an exported program", "give the module that was exported"
    elif any("torch" in kind and _QUANTIZED.search(kind) for kind in kinds):
        what, remedy = "quantized", "give the network as it was before it was quantized"
    elif any(tensor.is_meta for tensor in tensors_of(network)):
        what, remedy = "without numbers (on the meta device)", "load its weights first"
    else:
        return
    raise UserError(
        f"model {label!r} is {what}: its layers cannot be hooked or optimised; {remedy}."
    )
