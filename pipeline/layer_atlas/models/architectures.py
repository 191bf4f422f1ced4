"""Architectures: a name in the config resolved to a network without weights, plus its metadata.

A name is `demo`, one of torchvision's (classification, segmentation, detection), one of timm's
(`timm/...`), the dotted path of a callable that returns the network, or the address of a module in
memory. A config is plain data, so it names such a module by an address, `memory:LABEL`, which only
the process that holds it can resolve. The program keeps its module as it is: the sweep works on
copies of a snapshot, which is taken on the CPU when the module is handed over.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.records import canonical_json
from layer_atlas.errors import UserError, unknown
from layer_atlas.imports import import_callable
from layer_atlas.models.containment import contained
from layer_atlas.models.weights import is_weights_file

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_UNCHANGED_MEAN, _UNCHANGED_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and std of networks that normalise images themselves, as detectors do."""

TIMM = "timm/"
"""Prefix of the names of timm's networks."""

MEMORY = "memory:"
"""Beginning of the address of a module in memory."""

# Arguments that torchvision's builders set when they load published weights. The state dict alone
# does not determine them: `transform_input`, for example, changes pixels and has no parameter.
_PUBLISHED_ARGS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "fcn_resnet50": {"aux_loss": True},
    "fcn_resnet101": {"aux_loss": True},
    "deeplabv3_resnet50": {"aux_loss": True},
    "deeplabv3_resnet101": {"aux_loss": True},
    "deeplabv3_mobilenet_v3_large": {"aux_loss": True},
}
_WITHOUT_EPS = frozenset(
    {
        *("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
        "retinanet_resnet50_fpn",
    }
)
"""Detectors whose published `COCO_V1` weights were trained with batch norms without an epsilon."""

_OF_FIXED_SIZE = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
"""Detectors that resize every image to this many pixels."""

_DETECTOR_SIZE = 320
"""Pixels of the images of other detectors; torchvision's default of 800 costs six times as much."""

_OTHER_KINDS = {
    "quantization": ("is quantized, so that no gradient passes", "Take {plain} instead"),
    "video": ("takes video", "Wrap it in a module of your own that repeats the image, as target"),
    "optical_flow": ("takes two images", "Wrap it in a module of your own, as target"),
}
"""Kinds of torchvision networks that do not take images or cannot be optimized."""


@dataclass(frozen=True)
class Blueprint:
    """A network without weights, and the source of its published weights."""

    source: str
    build: Callable[[], nn.Module]
    published: Callable[[], Mapping[str, Tensor]] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    categories: tuple[str, ...] = ()
    """Class names of its output, where the library provides them."""
    address: str = ""
    """URL of the published weights, for messages."""
    cached: Callable[[], Path] | None = None
    """Returns the path where a download of the published weights is kept."""
    factory: Callable[..., nn.Module] | None = None
    """The user's own callable that builds the network."""
    trained: str = ""
    """Description of the published weights, for captions."""
    preset: str = "ImageNet default, assumed"
    """Description of the source of mean, std and input size, for captions."""
    interpolation: str = ""
    """Interpolation by which the images of its training were resized, where it is known."""
    setting: str = "target"
    """Setting by which the user decided what is built, for messages."""
    given: str | None = None
    """Value of that setting; None if the user decided nothing that could fail."""


def find_architecture(config: ModelConfig, weights: str) -> Blueprint:
    """Resolve the architecture that a model entry names.

    Args:
        config: the model entry.
        weights: `default`, `none`, a published set or a file: sets differ in their preprocessing.
    Raises:
        UserError: unknown model or weights, or a library that is not installed.
    """
    if config.target and config.target.startswith(MEMORY):
        return _from_memory(config, config.target)
    if config.target:
        return _from_target(config, config.target)
    if config.name == "demo":
        return _demo()
    if config.name.startswith(TIMM):
        return _from_timm(config, config.name.removeprefix(TIMM))
    return _from_torchvision(config, weights)


def build_module(
    build: Callable[[], nn.Module], setting: str = "", target: str | None = None
) -> nn.Module:
    """Build a network; random weights are the same every time.

    Args:
        build: callable that builds it.
        setting: name of the setting that holds `target`, for messages.
        target: dotted path that the user gave, if any.
    Raises:
        UserError: the user's callable fails, or does not return an initialised network.
    """
    # A fixed seed makes `weights=none` reproducible, and workers that build the network again get
    # the same weights.
    with contained(seed=0):
        try:
            module = build()
        # User code may parse sys.argv and call sys.exit, which raises no Exception.
        except (Exception, SystemExit) as error:
            if not target:
                raise
            raise UserError(f"{setting} {target!r} failed: {error!r}.") from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"{setting} {target!r} returned {type(module).__name__}, not a torch.nn.Module."
        )
    # Lazy parameters have no shape, so that neither their digest nor their state dict exists yet.
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise UserError(
            f"{setting} {target!r} returned a network with lazy modules, whose shapes are not yet "
            "known; run it once before returning it."
        )
    return _as_written(module)


def _as_written(module: nn.Module) -> nn.Module:
    """Undo compilation of a network: hooks do not fire in compiled code."""
    while _is_compiled(module):
        module = module._orig_mod  # type: ignore[assignment]
    for part in module.modules():
        # `module.compile()` makes no wrapper: it only sets this attribute, which `__call__` uses.
        part._compiled_call_impl = None
    return module


ATTENTION_MAP = "attention_map"
"""Name of the layer, inside a module of attention, for its maps: one channel per head."""


def show_attention(network: nn.Module) -> None:
    """Make layers of the maps that modules of attention return as a second result.

    Those of transformers return them unless attention is fused. They are passed on to a module of
    their own, which has a name and takes hooks as any other.
    """
    for module in list(network.modules()):
        parts = [part for part in module.modules() if "Attention" in type(part).__name__]
        # Of modules inside each other, the innermost computes the maps.
        innermost = parts == [module] and not type(module).__module__.startswith("torch.")
        if innermost and not hasattr(module, ATTENTION_MAP):
            module.add_module(ATTENTION_MAP, nn.Identity())
            module.register_forward_hook(_show_map)


def _show_map(module: nn.Module, args: Any, output: Any) -> None:
    maps = output[1:] if isinstance(output, tuple) else ()
    for heads in (part for part in maps if isinstance(part, Tensor) and part.ndim == 4):
        module.get_submodule(ATTENTION_MAP)(heads)


def _demo() -> Blueprint:
    from layer_atlas.models import demo

    return Blueprint(
        source="demo",
        build=demo.DemoNet,
        published=lambda: demo.demo_network().state_dict(),
        mean=demo.MEAN,
        std=demo.STD,
        input_size=demo.INPUT_SIZE,
        categories=demo.CLASSES,
        trained="weights that come with the package",
        preset="as it was trained",
    )


# --- torchvision ---------------------------------------------------------------------------------


def _from_torchvision(config: ModelConfig, weights: str) -> Blueprint:
    import torchvision.models as zoo

    name = config.name
    _check_name(name)
    # The entry is needed for `none` and for files too: its preset and class names are the best
    # guess.
    entry = _weights_entry(zoo.get_model_weights(name), weights)
    preset, args = entry.transforms(), _arguments(config, weights)
    detector = name in zoo.list_models(module=zoo.detection)
    size = args.get("min_size") or _OF_FIXED_SIZE.get(name) or _size_of(preset)
    categories = () if detector else tuple(entry.meta["categories"])

    def build() -> nn.Module:
        module: nn.Module = zoo.get_model(name, weights=None, **args)
        # torchvision does the same when it loads these weights itself.
        if weights != "none" and name in _WITHOUT_EPS and entry.name == "COCO_V1":
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eps = 0.0
        return module

    resized = f"(min_size={size})" if "min_size" in args and not config.args else ""
    return Blueprint(
        source=f"torchvision/{name}{resized}{_words_of(config.args)}",
        build=build,
        published=lambda: entry.get_state_dict(progress=False, check_hash=True, weights_only=True),
        mean=tuple(getattr(preset, "mean", _UNCHANGED_MEAN)),
        std=tuple(getattr(preset, "std", _UNCHANGED_STD)),
        input_size=size,
        categories=_unless_others(categories, config.args),
        address=entry.url,
        cached=lambda: Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name,
        trained=f"{'ImageNet' if 'IMAGENET' in entry.name else 'COCO'} weights ({entry.name})",
        preset="torchvision's published preset",
        interpolation=getattr(getattr(preset, "interpolation", None), "value", ""),
        setting=f"args of model {config.title!r}",
        given=canonical_json(config.args) if config.args else None,
    )


def _words_of(args: Mapping[str, Any] | None) -> str:
    """Return the arguments that a user gave as a part of a network's source."""
    return f"({canonical_json(args)})" if args else ""


def _unless_others(categories: tuple[str, ...], args: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return class names, unless the user asked for another number of classes."""
    return categories if (args or {}).get("num_classes", len(categories)) == len(categories) else ()


def _check_name(name: str) -> None:
    """Check that this is a torchvision network that takes images; raise UserError otherwise."""
    import torchvision.models as zoo

    modules = (zoo, zoo.segmentation, zoo.detection)
    names = [model for module in modules for model in zoo.list_models(module=module)]
    if name in names:
        return
    if name not in zoo.list_models():
        remedy = "timm's are timm/NAME; your own: models=[{name: mine, target: package.build}]."
        raise unknown("model", name, ["demo", *names], remedy)
    kind = zoo.get_model_builder(name).__module__.split(".")[2]
    what, remedy = _OTHER_KINDS[kind]
    raise UserError(
        f"model {name!r} of torchvision {what}; a sweep optimizes images. "
        f"{remedy.format(plain=name.removeprefix('quantized_'))}."
    )


def _arguments(config: ModelConfig, weights: str) -> dict[str, Any]:
    """Return the arguments of a torchvision builder."""
    import torchvision.models as zoo

    name = config.name
    args = {} if weights == "none" else dict(_PUBLISHED_ARGS.get(name, {}))
    detector = name in zoo.list_models(module=zoo.detection)
    if detector or name in zoo.list_models(module=zoo.segmentation):
        args["weights_backbone"] = None  # the default downloads them
    if detector and name not in _OF_FIXED_SIZE:
        # For images of this size the detector's internal resizing is the identity.
        args["min_size"] = config.input_size or _DETECTOR_SIZE
    return args | (config.args or {})


def _size_of(preset: Any) -> int:
    """Return the height and width of a preset's images; segmentation presets have no crop."""
    return int(getattr(preset, "crop_size", preset.resize_size)[0])


def _weights_entry(enum: Any, weights: str) -> Any:
    """Return the member of a torchvision weights enum; its default represents `none` and files."""
    if weights in ("default", "none") or is_weights_file(weights):
        return enum.DEFAULT
    if weights not in enum.__members__:
        choices = ["default", "none", *enum.__members__]
        remedy = "Or the path of a file: .safetensors, .pth, .pt, .ckpt, .bin, .pkl."
        raise unknown(f"weights of {enum.__name__}:", weights, choices, remedy)
    return enum[weights]


# --- timm ----------------------------------------------------------------------------------------


def _from_timm(config: ModelConfig, name: str) -> Blueprint:
    """Resolve a timm network: `resnet18` or, with the tag of a published set, `resnet18.a1_in1k`.

    timm reads its published files itself: the layout of many differs from that of its networks.
    """
    timm = _import_timm()
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models():
        raise unknown("model", TIMM + name, [TIMM + model for model in timm.list_models()])
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise unknown("model", TIMM + name, [TIMM + model for model in (architecture, *tags)])
    # The config of the tag, not of the architecture: sets differ in mean, std and input size.
    cfg = timm.get_pretrained_cfg(name).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=cfg)
    repository = cfg.get("hf_hub_id")
    args = config.args or {}
    # timm would draw a head of another size at random; here it counts as missing.
    fitting = {key: value for key, value in args.items() if key != "num_classes"}
    return Blueprint(
        source=TIMM
        + ".".join(filter(None, (architecture, cfg.get("tag"))))
        + _words_of(config.args),
        build=lambda: timm.create_model(name, **args),
        published=(lambda: timm.create_model(name, pretrained=True, **fitting).state_dict())
        if tags
        else None,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        input_size=int(data["input_size"][1]),
        categories=_unless_others(tuple(_timm_categories(timm, cfg)), config.args),
        address=f"https://huggingface.co/{repository}" if repository else cfg.get("url") or "",
        trained=f"published weights ({'.'.join(filter(None, (architecture, cfg.get('tag'))))})",
        preset="timm's published preset",
        interpolation=data.get("interpolation", ""),
        setting=f"args of model {config.title!r}",
        given=canonical_json(config.args) if config.args else None,
    )


def _import_timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise UserError(
            f"models whose names begin with {TIMM} need timm, which cannot be imported ({error}): "
            "pip install 'layer-atlas[timm]'"
        ) from error
    return timm


def _timm_categories(timm: Any, cfg: Mapping[str, Any]) -> Sequence[str]:
    """Return the class names, which timm provides for the subsets of ImageNet."""
    if cfg.get("label_names"):
        return list(cfg["label_names"])
    subset = timm.data.infer_imagenet_subset(cfg)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else []


# --- callables of the user's own -----------------------------------------------------------------


def _from_target(config: ModelConfig, target: str) -> Blueprint:
    with contained():  # scripts may set torch's defaults when they are imported
        function = import_callable(target, "target", "that returns the network")

    def build() -> nn.Module:
        # A network that exists once its module is imported is copied: its weights are set here.
        if isinstance(function, nn.Module):
            return copy.deepcopy(function)
        return function(**(config.args or {}))  # type: ignore[no-any-return]

    return Blueprint(
        source=target + _words_of(config.args),
        build=build,
        published=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=224,
        factory=function,
        given=target,
    )


# --- modules in memory ----------------------------------------------------------------------------


_SHARED = ("trainer", "_trainer")
"""Attributes that copies share with the program's module: a trainer holds the training data."""

_snapshots: dict[str, nn.Module] = {}


def _from_memory(config: ModelConfig, address: str) -> Blueprint:
    module = _snapshot(address, config.title)
    return Blueprint(
        source=_class_name(module),
        build=lambda: _copied(module),
        published=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=224,
        trained="weights of the module in memory",
    )


@contextmanager
def in_memory(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Make modules known by their addresses for the time of a sweep.

    Args:
        modules: modules of the program by address; they are copied now.
    """
    _snapshots.update({address: _copied(_unwrapped(m)) for address, m in modules.items()})
    try:
        yield
    finally:
        for address in modules:
            _snapshots.pop(address, None)


def _snapshot(address: str, label: str) -> nn.Module:
    """Return the snapshot of a module by its address.

    Raises:
        UserError: this process has no such module.
    """
    if address not in _snapshots:
        raise UserError(
            f"model {label!r} was a module in memory of the Python process that made its images; "
            "hand it over again with layer_atlas.run, or name a callable that returns it as target."
        )
    return _snapshots[address]


def _class_name(module: nn.Module) -> str:
    """Dotted name of the class of a module: the source that `target` has for the same class."""
    cls = type(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def _unwrapped(module: nn.Module) -> nn.Module:
    """Take a module out of what parallelizes or compiles it."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif _is_compiled(module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def _is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` wraps around another."""
    # Importing it takes as long as torch itself, and nothing is compiled without it.
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module, its tensors to the CPU; attributes that cannot be copied are shared."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            _remember_tensors(value, memo)
            if name in _SHARED:
                memo[id(value)] = value
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception:  # noqa: BLE001 - attributes may be of any class
        _remember_uncopyable(module, memo)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise UserError(
            f"a {type(module).__name__} in memory cannot be copied ({type(error).__name__}: "
            f"{error}); name a callable that builds it as target."
        ) from error


def _remember_tensors(value: Any, memo: dict[int, Any]) -> None:
    """Note copies of tensors, also of results of computations, which `deepcopy` refuses."""
    if isinstance(value, Tensor):
        # Tensors of some kinds cannot be copied so: lazy ones, those on the meta device.
        with suppress(Exception), torch.no_grad():
            number = value.detach().to("cpu", copy=True)
            is_parameter = isinstance(value, nn.Parameter)
            memo.setdefault(id(value), nn.Parameter(number, False) if is_parameter else number)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _remember_tensors(item, memo)
    elif isinstance(value, dict):
        for item in value.values():
            _remember_tensors(item, memo)


def _remember_uncopyable(module: nn.Module, memo: dict[int, Any]) -> None:
    """Note attributes that cannot be copied, such as locks and open files, as shared."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name == "_modules" or isinstance(value, nn.Module):
                continue
            try:
                # On a copy of the memo: what fails leaves half-made objects behind.
                copy.deepcopy(value, dict(memo))
            except Exception:  # noqa: BLE001
                memo[id(value)] = value
