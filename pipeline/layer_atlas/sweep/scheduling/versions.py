"""`versions=strict`: which environment a sweep wants all its images to be made with."""

from collections import Counter
from dataclasses import replace

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.executors import ExecutorSettings, LocalSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import Device, environment_here
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder


def with_one_environment(
    plan: Plan, folder: OutputFolder, settings: ExecutorSettings, devices: list[str]
) -> Plan:
    """Have only images count that were made with the versions that are installed, on one device.

    The device is that of this machine where workers run on it. That of a cluster is not known
    beforehand: it is the kind on which most images were made with these versions, if there are any.

    Raises:
        UserError: devices of several kinds are to be used.
    """
    if isinstance(settings, LocalSettings):
        return _wanting(plan, _device_here(devices))
    wanted = _wanting(plan, None)
    made: Counter[Device | None] = Counter()
    for view in layer_views(folder, wanted):
        for environment, count in view.environments().items():
            made[environment.device if environment else None] += count
    return _wanting(plan, made.most_common(1)[0][0]) if made else wanted


def _wanting(plan: Plan, device: Device | None) -> Plan:
    models = []
    for model in plan.models:
        sources = [network.source for network in model.networks.values()]
        environment = replace(environment_here(None, sources), device=device)
        models.append(replace(model, environment=environment))
    return replace(plan, models=tuple(models))


def _device_here(devices: list[str]) -> Device | None:
    kinds = {name: environment_here(name, ()).device for name in dict.fromkeys(devices)}
    first, *_ = kinds.values()
    if any(kind != first for kind in kinds.values()):
        told = ", ".join(f"{name} is {kind and kind.name}" for name, kind in kinds.items())
        raise UserError(
            f"versions=strict wants all images made on one kind of device, and {told}. Choose "
            f"executor.devices=[{devices[0]}], or versions=any."
        )
    return first
