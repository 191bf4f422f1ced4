"""Weights: the state dict of a checkpoint that fits a network, loaded into it, and its digest.

Trainers save more than a network, under names of their own: `state_dict` of a Lightning module,
`module.` of a parallel one, an average beside it. The tensors that fit are found by trying: a
prefix of the names in the file is stripped, a prefix of the network's names is put in front, and
the pair under which most names and shapes agree is taken and reported.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import WEIGHTS_SUFFIXES
from layer_atlas.errors import UnusableFile, unknown
from layer_atlas.models.checkpoints import (
    COMPLEX,
    REAL,
    Checkpoint,
    TensorRef,
    check_packed,
    explained,
    is_plain,
    read_checkpoint,
)

_MOST_UNPACKED = 2**32
"""Largest size in bytes of the unpacked contents of a compressed file."""


def is_weights_file(weights: str) -> bool:
    """Return whether a `weights` setting names a file rather than a published set."""
    if weights in ("default", "none"):
        return False
    path = Path(weights)
    if path.suffix.lower() in WEIGHTS_SUFFIXES or os.sep in weights:
        return True
    try:
        return path.exists()
    except OSError:  # longer than a name can be
        return False


def read_weights(path: Path) -> Checkpoint:
    """Read the names of a checkpoint's tensors as data, without running code from the file.

    Raises:
        UnusableFile: not a weights file, truncated, or one that holds no tensors.
    """
    checkpoint = read_checkpoint(path)
    if "" in checkpoint.tensors or (not checkpoint.tensors and checkpoint.root != "mapping"):
        raise UnusableFile(f"{str(path)!r} holds a {checkpoint.root}, not a state dict.")
    if not checkpoint.tensors:
        raise UnusableFile(f"{str(path)!r} holds no tensors.")
    return checkpoint


# --- arrays --------------------------------------------------------------------------------------


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read the named tensors of an array file; an unnamed tensor gets the name "".

    Raises:
        UnusableFile: not a .npy, .npz, .safetensors, .pt or .pth file of real numbers.
    """
    expected = "a .npy, .npz, .safetensors or .pt file of numbers"
    if path.suffix in (".npy", ".npz"):
        loaded: dict[str, Tensor] = explained(path, partial(_load_numpy, path), expected)
    else:
        checkpoint = read_checkpoint(path, expected)
        if not checkpoint.tensors:
            raise UnusableFile(f"{str(path)!r} holds no tensors.")
        containers = {ref.container for ref in checkpoint.tensors.values()}
        # Where all have one container, as in {"state_dict": ...}, it is no part of their names.
        shared = f"{containers.pop()}." if len(containers) == 1 else ""
        loaded = {
            name.removeprefix(shared).removeprefix("module."): checkpoint.read(name)
            for name in checkpoint.tensors
        }
    for name, tensor in loaded.items():
        # A zero stride lets a tiny file stand for a tensor of any size.
        repeated = is_plain(tensor) and tensor.untyped_storage().nbytes() < tensor.nbytes
        if not is_plain(tensor) or tensor.is_complex() or repeated:
            raise UnusableFile(f"{name or 'what'!r} in {str(path)!r} is {_NOT_PLAIN}.")
    return loaded


def _load_numpy(path: Path) -> dict[str, Tensor]:
    check_packed(path, _MOST_UNPACKED)
    loaded = np.load(path, allow_pickle=False)
    named = dict(loaded) if path.suffix == ".npz" else {"": loaded}
    return {name: torch.from_numpy(array) for name, array in named.items()}


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """The result of loading a file."""

    missing: tuple[str, ...]
    """Tensors of the network that hold NaN: their names, with the shapes where these differ."""
    summary: str
    """What was taken from the file and what was stripped, in words."""


def load_state(
    module: nn.Module,
    checkpoint: Checkpoint,
    label: str,
    key: str | None = None,
    prefix: str | None = None,
) -> Loaded:
    """Copy the tensors of a checkpoint into a network; fill what is missing with NaN.

    Tensors that contain NaN, and those of another shape, count as missing: nothing that depends on
    them has a value.

    Args:
        module: the network.
        checkpoint: the file.
        label: name of the network, for messages.
        key: dotted path of the mapping in the file; `.` is the outermost. The default is what fits
            best.
        prefix: prefix of the names in it that is stripped. The default is what fits best.
    Raises:
        UserError: the file has no such key or prefix.
        UnusableFile: no tensor of the file belongs to the network, or one is no plain array.
    """
    own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    fits = _Matcher(checkpoint, own).fits(key, prefix)
    if not fits:
        raise UnusableFile(_strangers(checkpoint, own, label, key))
    names = fits[0].names
    misfits = {
        name: misfit
        for name, source in names.items()
        if (misfit := _misfit(checkpoint.tensors[source], own[name]))
    }
    _check_fit(checkpoint, names, misfits, own, label)
    state = {n: checkpoint.read(source) for n, source in names.items() if n not in misfits}
    state = {name: tensor for name, tensor in state.items() if not tensor.isnan().any()}
    missing = [n for n, tensor in own.items() if n not in state and tensor.is_floating_point()]
    for name in missing:
        own[name].fill_(float("nan"))
    # Not strict: missing names were handled above, and names of other heads are harmless.
    module.load_state_dict(state, strict=False)
    # A tensor with two names may have only one in the file; by now both have its numbers.
    missing = [name for name in missing if not own[name].numel() or own[name].isnan().any()]
    described = [f"{n} is {misfits[n]}" if n in misfits else n for n in missing]
    return Loaded(tuple(described), _summary(fits, len(own), missing))


_NOT_PLAIN = "no plain array of real numbers, but sparse, quantised, complex or empty of values"


def _misfit(ref: TensorRef, own: Tensor) -> str | None:
    """Return why a tensor of a file cannot be copied into one of the network, or None."""
    if ref.kind != (COMPLEX if own.is_complex() else REAL):
        return f"{_NOT_PLAIN} in the file"
    if ref.shape != own.shape:
        return f"{list(ref.shape)} in the file and {list(own.shape)} in the network"
    return None


def _check_fit(
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    misfits: Mapping[str, str],
    own: Mapping[str, Tensor],
    label: str,
) -> None:
    """Check that more than biases fits; raises UnusableFile.

    Tensors of other shapes are fine where no chosen layer needs them, as in a head that was
    trained for other classes.
    """
    kernels = [name for name in names if own[name].ndim > 1] or list(names)
    odd = [name for name, misfit in misfits.items() if misfit.startswith(_NOT_PLAIN)]
    if odd or all(name in misfits for name in kernels):
        name = next(iter(odd or misfits))
        raise UnusableFile(
            f"weights {checkpoint.path!r} do not fit model {label!r}: {name} is {misfits[name]}."
        )


def _strangers(
    checkpoint: Checkpoint, own: Mapping[str, Tensor], label: str, key: str | None
) -> str:
    """Explain that a file has no name of the network, with names of both."""
    inside = f"{key}." if key and key != "." else ""
    names = [name for name in checkpoint.tensors if name.startswith(inside)]
    return (
        f"weights {checkpoint.path!r} do not fit model {label!r}: no tensor of the file has a name "
        f"of this network. The file has {_some(names)}; the network has {_some(own)}. "
        "Is it for another network? If names alone differ, rename the keys of the state dict."
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more if listed else "no tensors"


def _summary(fits: Sequence["Fit"], count: int, missing: Sequence[str]) -> str:
    """Word what was taken, of what else was in the file, and what is missing."""
    fit, *others = fits
    # The same tensors by another prefix are no choice.
    others = [o for o in others if o.head != fit.head and o.names != fit.names]
    alike = [o for o in others if o.agreeing >= _ALIKE * fit.agreeing]
    rivals = {
        (o.strip, "weights_prefix") if o.key == fit.key else (o.key or ".", "weights_key"): None
        for o in alike
    }
    done = [
        f"took `{fit.key}`" if fit.key else "",
        f"stripped {' and '.join(f'`{part}`' for part in fit.stripped)}" if fit.stripped else "",
        f"put `{fit.add}` in front" if fit.add else "",
    ]
    words = [
        ", ".join(filter(None, done)),
        f"{len(fit.names)} of {count} tensors"
        + (f" (nothing in the file fits {_some(missing)})" if missing else ""),
        f"{fit.others} more in the file unused" if fit.others else "",
        *(
            f"`{rival}` fits as well, and models[].{setting}={rival} takes it"
            for rival, setting in list(rivals)[:_SHOWN]
        ),
    ]
    return "; ".join(filter(None, words))


# --- what fits -----------------------------------------------------------------------------------

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that DataParallel, torch.compile, FSDP and checkpointing put anywhere in them."""

_SECOND = frozenset(
    {"student", "ema", "averaged", "average", "shadow", "momentum", "swa", "target", "k"}
)
"""Words of networks that are taken last: averages, and students beside their teacher."""

_TRIED, _ALIKE, _SHOWN = 16, 0.9, 3
"""Prefixes that are tried; fraction of the best fit from which on another candidate is reported;
names in messages."""


@dataclass(frozen=True)
class Fit:
    """A way to map names in a file to names in a network."""

    key: str
    """Dotted path of the mapping in the file."""
    strip: str
    """Prefix of the names in it that is removed; only names that have it are taken."""
    stripped: tuple[str, ...]
    """What was removed from the names as the file has them: the prefix, parts of wrappers."""
    add: str
    """Prefix that is put in front of what remains."""
    names: Mapping[str, str]
    """Names in the file by names in the network, in the network's order; shapes may differ."""
    agreeing: int
    """Number of tensors of equal shape."""
    others: int
    """Number of tensors under the same key and prefix that the network does not have."""

    @property
    def head(self) -> str:
        """What the names in the file begin with."""
        return f"{self.key}.{self.strip}" if self.key else self.strip

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts ways, the best first."""
        words = set(re.split(r"[._]", self.head))
        parts = f"{self.strip}{self.add}".count(".")
        return -self.agreeing, -len(self.names), bool(words & _SECOND), parts

    def is_meant(self, count: int) -> bool:
        """Whether more names agree than by chance, as `0.weight` would in any network.

        Args:
            count: number of tensors of the network.
        """
        whole = not self.strip and not self.add
        most = len(self.names) >= count / 2
        return whole or most or self.agreeing >= max(1, self.others)


class _Matcher:
    """Finds the ways to map the names in a file to those of a network."""

    def __init__(self, checkpoint: Checkpoint, own: Mapping[str, Tensor]) -> None:
        self.tensors, self.own, self.path = checkpoint.tensors, own, checkpoint.path
        self.containers = list(_containers(ref.container for ref in self.tensors.values()))
        self.plain_own = _by_plain_names(own, lambda name: "")
        self.names = _by_plain_names(self.tensors, lambda name: self.tensors[name].container)

    def fits(self, key: str | None, prefix: str | None) -> list[Fit]:
        """List the ways that may be meant, the best first; raises UserError."""
        heads = self._heads(key, prefix)
        # A wrapper around the network in the file puts its own name in front of all others.
        fronts = _prefixes(self.plain_own, len(self.own) / 2)
        fits = [fit for front in fronts for fit in self._behind(front, heads, key)]
        meant = [fit for fit in fits if fit.is_meant(len(self.own))]
        return sorted(meant, key=lambda fit: fit.order)

    def _heads(self, key: str | None, prefix: str | None) -> list[str] | None:
        """List what names may begin with; None if only `key` or nothing is chosen."""
        if key is not None and key not in (".", *self.containers):
            raise unknown(f"weights_key of {self.path!r}:", key, [".", *self.containers])
        if prefix is None:
            return None
        dotted = f"{prefix.removesuffix('.')}." if prefix else ""
        inside = ["", *self.containers] if key is None else [key.strip(".")]
        raw = [f"{part}.{dotted}" if part else dotted for part in inside]
        if not any(name.startswith(head) for name in self.tensors for head in raw):
            rests = (name.removeprefix(f"{ref.container}.") for name, ref in self.tensors.items())
            known = {head for rest in rests for head, _ in _splits(rest) if head}
            raise unknown(f"weights_prefix of {self.path!r}:", prefix, known)
        dotted = _without_wrappers(dotted)
        return [f"{part}.{dotted}" if part else dotted for part in inside]

    def _behind(self, front: str, heads: list[str] | None, key: str | None) -> Iterator[Fit]:
        """Yield the ways to map names to those of the network that begin with `front`."""
        starts = self.plain_own.items()
        rests = {n.removeprefix(front): name for n, name in starts if n.startswith(front)}
        counts: Counter[str] = Counter()
        for name in self.names:
            counts.update(head for head, rest in _splits(name) if rest in rests)
        tried = [head for head in counts if (heads is None or head in heads)]
        tried = [head for head in tried if self._is_inside(head, key)]
        for head in sorted(tried, key=lambda head: -counts[head])[:_TRIED]:
            yield self._fit(head, front, rests)

    def _fit(self, head: str, front: str, rests: Mapping[str, str]) -> Fit:
        below = [name for name in self.names if name.startswith(head)]
        pairs = {
            name: self.names[head + rest]
            for rest, name in rests.items()
            if head + rest in self.names
        }
        agreeing = sum(self.tensors[f].shape == self.own[n].shape for n, f in pairs.items())
        key = self._key(head)
        strip = head.removeprefix(f"{key}.") if key else head
        stripped = _stripped(f"{key}." if key else "", strip, pairs)
        return Fit(key, strip, stripped, front, pairs, agreeing, len(below) - len(pairs))

    def _key(self, head: str) -> str:
        """Return the longest path of a mapping that names with this beginning lie in."""
        return max((c for c in self.containers if head.startswith(f"{c}.")), key=len, default="")

    def _is_inside(self, head: str, key: str | None) -> bool:
        if key == ".":
            return self._key(head) == ""
        return key is None or head.startswith(f"{key}.")


def _containers(containers: Iterable[str]) -> dict[str, None]:
    """Return the dotted paths of all that holds tensors, directly or not."""
    paths: dict[str, None] = {}
    for container in dict.fromkeys(containers):
        parts = container.split(".") if container else []
        paths |= dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return paths


def _by_plain_names(names: Iterable[str], container: Callable[[str], str]) -> dict[str, str]:
    """Return names by the same without the parts that wrappers put into them, if these differ."""
    names = list(names)
    plain = {}
    for name in names:
        inside = f"{container(name)}." if container(name) else ""
        plain[inside + _without_wrappers(name.removeprefix(inside))] = name
    return plain if len(plain) == len(names) else {name: name for name in names}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _stripped(inside: str, strip: str, pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is removed from names in a file: one prefix, or several parts of names."""
    found = [(name, source.removeprefix(inside)) for name, source in pairs.items()]
    heads = set()
    for _, source in found:
        rest = _without_wrappers(source).removeprefix(strip)
        heads.add(source.removesuffix(rest) if source.endswith(rest) else None)
    if len(heads) == 1 and None not in heads:
        return tuple(filter(None, heads))
    wrappers = {part for name, source in found for part in _wrappers(source) - _wrappers(name)}
    return tuple(filter(None, (strip, *(f"{part}." for part in sorted(wrappers)))))


def _wrappers(name: str) -> set[str]:
    return set(name.split(".")) & _WRAPPERS


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to cut a dotted name in two, the first part being empty or ending in a dot."""
    parts = name.split(".")
    for n in range(len(parts)):
        yield "".join(f"{part}." for part in parts[:n]), ".".join(parts[n:])


def _prefixes(names: Iterable[str], least: float) -> list[str]:
    """List the dotted prefixes that so many names have, the empty one first."""
    counts = Counter(head for name in names for head, _ in _splits(name))
    return [head for head, count in counts.items() if count >= least]


# --- identity ------------------------------------------------------------------------------------


def weights_digest(module: nn.Module) -> str:
    """Compute the SHA-256 over names, dtypes, shapes and bytes of all tensors of the network."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # `get_extra_state` may return any object
            sha.update(f"{name} {type(tensor).__name__}\n".encode(errors="surrogatepass"))
            continue
        header = f"{name} {tensor.dtype} {list(tensor.shape)}\n"
        sha.update(header.encode(errors="surrogatepass"))  # names may hold lone surrogates
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
