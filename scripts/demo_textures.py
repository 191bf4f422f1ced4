"""Endless colour textures and shapes, drawn from random numbers, for the demo network to name.

A *texture* draws n samples at once and says where on the paper there is ink, and which (`Figure`).
Colours, background, light, blur and noise come afterwards and are the same lottery for all, so
that nothing but the drawing tells the classes apart, except where a palette is part of the class.
Lengths are in pixels, angles in radians; edges are one pixel soft, so nothing aliases.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 96
INKS = 6
TAU = 2 * math.pi


class Figure(NamedTuple):
    """Where there is ink, and which, along the inks of the palette: both (n,S,S) in [0, 1]."""

    cover: Tensor
    ink: Tensor


class Palette(NamedTuple):
    """sRGB in [0, 1]: `paper` (n,2,3), the two ends of its gradient; `inks` (n,6,3)."""

    paper: Tensor
    inks: Tensor


class Spot(NamedTuple):
    """The nearest element of a jittered lattice, for every pixel: all (n,S,S).

    `x`, `y` are measured from the element's centre in its own frame; `radius` is free around it.
    """

    x: Tensor
    y: Tensor
    radius: Tensor
    lot: Tensor
    present: Tensor


class Brush:
    """The canvas of n samples: pixel coordinates and the random numbers for them."""

    def __init__(self, n: int, generator: torch.Generator, size: int = SIZE) -> None:
        self.n, self.size, self.generator = n, size, generator
        axis = torch.arange(size) - (size - 1) / 2
        self.y, self.x = axis.view(1, -1, 1), axis.view(1, 1, -1)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers (n,1,1), or (n,*shape)."""
        return low + (high - low) * torch.rand(
            (self.n, *(shape or (1, 1))), generator=self.generator
        )

    def scale(self, low: float, high: float) -> Tensor:
        """Lengths (n,1,1), every octave equally likely."""
        return torch.exp(self.uniform(math.log(low), math.log(high)))

    def one_of(self, *values: float) -> Tensor:
        """One of the values for each sample, (n,1,1)."""
        pick = torch.randint(len(values), (self.n, 1, 1), generator=self.generator)
        return torch.tensor(values)[pick]

    def frame(
        self, centre: float = 0.0, spread: float = math.pi, shift: float = 48.0
    ) -> tuple[Tensor, Tensor]:
        """Coordinates (n,S,S) turned by `centre` +- `spread` and moved by up to `shift` pixels."""
        angle = centre + self.uniform(-spread, spread)
        x, y = self.x - self.uniform(-shift, shift), self.y - self.uniform(-shift, shift)
        return turn(x, y, angle)

    def noise(self, weight: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Noise (n,S,S), mean 0, sd 1, of amplitudes `weight(fx, fy)` in cycles per pixel."""
        fy = torch.fft.fftfreq(self.size).view(1, -1, 1)
        fx = torch.fft.rfftfreq(self.size).view(1, 1, -1)
        white = torch.randn((self.n, self.size, self.size), generator=self.generator)
        spectrum = torch.fft.rfft2(white) * weight(fx, fy)
        field: Tensor = torch.fft.irfft2(spectrum, s=white.shape[1:])
        field = field - field.mean((1, 2), keepdim=True)
        return field / field.std((1, 2), keepdim=True)

    def clouds(self, power: Tensor | float = 2.0) -> Tensor:
        """Noise with amplitudes 1/f^power, (n,S,S)."""
        return self.noise(lambda fx, fy: (fx.square() + fy.square() + 1e-4) ** (-power / 2))

    def lattice(self, low: float, high: float, tilt: float = math.pi) -> Spot:
        """Elements on a turned, jittered lattice, cells of `low` to `high` pixels, some missing.

        `tilt` bounds the turn of each element. Cells above two thirds of the canvas: one, centred.
        """
        cell = self.scale(low, high)
        alone = cell > self.size * 0.66
        shift = torch.where(alone, 0.5, self.uniform(0, 1))
        lattice_turn = torch.where(alone, 0.0, self.uniform(-0.5, 0.5))
        u, v = turn(self.x, self.y, lattice_turn)
        u, v = u / cell + shift, v / cell + shift
        column, row = u.floor(), v.floor()
        lots = [lot(column, row, self.uniform(0, 1)) for _ in range(6)]
        radius = cell * (0.34 + 0.12 * lots[0])
        slack = (0.5 * cell - radius) * 0.8
        x = (u - column - 0.5) * cell + slack * (2 * lots[1] - 1)
        y = (v - row - 0.5) * cell + slack * (2 * lots[2] - 1)
        x, y = turn(x, y, tilt * (2 * lots[3] - 1) - lattice_turn)
        return Spot(x, y, radius, lots[4], ((lots[5] < 0.8) | alone).float())


def turn(x: Tensor, y: Tensor, angle: Tensor | float) -> tuple[Tensor, Tensor]:
    """Coordinates in a frame turned by `angle`."""
    angle = torch.as_tensor(angle)
    c, s = angle.cos(), angle.sin()
    return x * c + y * s, y * c - x * s


def lot(column: Tensor, row: Tensor, key: Tensor) -> Tensor:
    """A number in [0, 1) for each lattice cell, the same all over the cell."""
    return ((column * 12.9898 + row * 78.233 + key * 311.7).sin() * 4375.85).frac().abs()


def inside(distance: Tensor, softness: Tensor | float = 1.0) -> Tensor:
    """Signed distance to an outline (negative inside) -> coverage, with an edge of `softness`."""
    return (0.5 - distance / softness).clamp(0, 1)


def band(u: Tensor, period: Tensor, duty: Tensor | float) -> Tensor:
    """Signed distance to bands that cover the share `duty` of each `period` along u."""
    phase = u / period
    return ((phase - phase.floor() - 0.5).abs() - duty / 2) * period


# --- lines ----------------------------------------------------------------------------------------


def bands(brush: Brush, u: Tensor, period: Tensor) -> Figure:
    """Bands along u with random duty and softness, each with its own ink or all with one."""
    softness = 1 + brush.uniform(0, 0.4) * period * brush.one_of(0, 1)
    cover = inside(band(u, period, brush.uniform(0.35, 0.65)), softness)
    return Figure(cover, lot((u / period).floor(), u * 0, brush.uniform(0, 1)))


def stripes(brush: Brush, direction: float) -> Figure:
    u, _ = brush.frame(direction, 0.16)
    return bands(brush, u, brush.scale(5, 26))


def waves(brush: Brush) -> Figure:
    u, v = brush.frame()
    length = brush.scale(20, 48)
    height = length * brush.uniform(0.14, 0.24)
    return bands(brush, u + height * (v * TAU / length).sin(), brush.scale(7, 22))


def zigzag(brush: Brush) -> Figure:
    u, v = brush.frame()
    length = brush.scale(14, 40)
    tooth = ((v / length).frac().abs() - 0.5).abs() * length
    return bands(brush, u + tooth * brush.uniform(1.2, 2.2), brush.scale(8, 22))


def checks(brush: Brush) -> Figure:
    u, v = brush.frame()
    period = brush.scale(10, 40)
    a, b = inside(band(u, period, 0.5)), inside(band(v, period, 0.5))
    cell = lot((2 * u / period).floor(), (2 * v / period).floor(), brush.uniform(0, 1))
    return Figure(a + b - 2 * a * b, cell)


def plaid(brush: Brush) -> Figure:
    u, v = brush.frame(0, 0.3)
    period = brush.scale(16, 44)
    duty, thin = brush.uniform(0.3, 0.5), brush.uniform(0.06, 0.12)
    threads = [inside(band(w, period, duty)) for w in (u, v)]
    lines = [inside(band(w + period / 2, period, thin)) for w in (u, v)]
    cover = 0.5 * (threads[0] + threads[1])
    line = torch.maximum(*lines)
    return Figure(torch.maximum(cover, line * 0.9), line)


def hatching(brush: Brush) -> Figure:
    u, v = brush.frame()
    w, _ = turn(u, v, brush.uniform(0.7, 1.57))
    period, width = brush.scale(5.5, 13), brush.uniform(1.2, 2.0)
    bend = 1.2 * (v * TAU / 60).sin()
    first, second = (inside(band(z, period, width / period)) for z in (u + bend, w - bend))
    return Figure(torch.maximum(first, second), first)


def weave(brush: Brush) -> Figure:
    u, v = brush.frame()
    pitch = brush.scale(9, 22)
    column, row = (u / pitch).floor(), (v / pitch).floor()
    over = (column + row).remainder(2)
    width = brush.uniform(0.62, 0.85)
    across, along = band(u, pitch, width), band(v, pitch, width)
    cover = torch.where(over > 0, torch.maximum(inside(across), 0.65 * inside(along)), 0)
    under = torch.where(over > 0, 0, torch.maximum(inside(along), 0.65 * inside(across)))
    ink = torch.where((over > 0) == (across < 0), 0.1, 0.9)
    return Figure(cover + under, ink)


def hub(brush: Brush) -> tuple[Tensor, Tensor]:
    """Distance from and angle about a random centre near the middle, (n,S,S)."""
    x, y = brush.frame(shift=26.0)
    return (x.square() + y.square() + 1e-3).sqrt(), torch.atan2(y, x)


def rings(brush: Brush) -> Figure:
    r, _ = hub(brush)
    return bands(brush, r + brush.uniform(0, 20), brush.scale(7, 22))


def spirals(brush: Brush) -> Figure:
    r, angle = hub(brush)
    period = brush.scale(8, 20)
    arms, hand = brush.one_of(1, 2, 3, 4), brush.one_of(-1, 1)
    even = r + arms * hand * period * angle / TAU
    opening = period * (arms * hand * angle / TAU + brush.uniform(1.5, 3.0) * (r + 2).log())
    return bands(brush, torch.where(brush.uniform(0, 1) < 0.6, even, opening), period)


def sunburst(brush: Brush) -> Figure:
    r, angle = hub(brush)
    rays = brush.one_of(*range(6, 17))
    share = angle * rays / TAU
    distance = ((share - share.floor() - 0.5).abs() - brush.uniform(0.18, 0.3)) * r * TAU / rays
    cover = inside(distance)
    disc = inside(r - brush.uniform(0, 12))
    return Figure(torch.maximum(cover, disc), torch.maximum((r / 70).clamp(0, 1), disc))


# --- tilings --------------------------------------------------------------------------------------


def dots(brush: Brush) -> Figure:
    u, v = brush.frame()
    pitch = brush.scale(8, 20)
    v = v * brush.one_of(1.0, 1.1547)
    row = (v / pitch).floor()
    u = u + brush.one_of(0.0, 0.5) * pitch * row.remainder(2)
    column = (u / pitch).floor()
    x, y = u - (column + 0.5) * pitch, v - (row + 0.5) * pitch
    distance = (x.square() + y.square()).sqrt() - pitch * brush.uniform(0.24, 0.38)
    return Figure(inside(distance), lot(column, row, brush.uniform(0, 1)))


def bubbles(brush: Brush) -> Figure:
    cover = brush.x * brush.y * torch.zeros(brush.n, 1, 1)
    ink = cover.clone()
    line = brush.uniform(1.4, 3.0)
    for _ in range(12):
        x, y = brush.x - brush.uniform(-48, 48), brush.y - brush.uniform(-48, 48)
        r = (x.square() + y.square()).sqrt()
        radius = brush.scale(6, 18)
        rim = inside((r - radius).abs() - line / 2)
        glaze = inside(r - radius) * 0.3
        ink = torch.where(r < radius + 1, brush.uniform(0, 1), ink)
        cover = torch.maximum(torch.maximum(cover * (1 - glaze), glaze), rim)
    return Figure(cover, ink)


def bricks(brush: Brush) -> Figure:
    u, v = brush.frame(0, 0.2)
    height = brush.scale(9, 20)
    width = height * brush.uniform(1.8, 2.6)
    row = (v / height).floor()
    u = u + 0.5 * width * row.remainder(2)
    joint = brush.uniform(1.5, 3.0)
    distance = torch.maximum(band(u, width, 1 - joint / width), band(v, height, 1 - joint / height))
    return Figure(inside(distance), lot((u / width).floor(), row, brush.uniform(0, 1)))


def scales(brush: Brush) -> Figure:
    u, v = brush.frame(0, 0.25)
    width = brush.scale(14, 32)
    step = width * 0.3
    row = (v / step).floor()

    def tile(row: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest centre in this row, in radii, and the lot of that tile."""
        moved = u + 0.5 * width * row.remainder(2)
        column = (moved / width).floor()
        x, y = moved - (column + 0.5) * width, v - row * step
        return (x.square() + y.square()).sqrt() / (0.5 * width), lot(column, row, key)

    key = brush.uniform(0, 1)
    (upper, upper_lot), (lower, lower_lot) = tile(row - 1), tile(row)
    on_top = upper < 1
    r = torch.where(on_top, upper, lower)
    rim = inside((0.5 * width) * (1 - r).abs() - brush.uniform(1.2, 2.4))
    shade = brush.uniform(0, 0.8) * (1 - r.clamp(0, 1))
    return Figure(torch.maximum(rim, shade), torch.where(on_top, upper_lot, lower_lot))


def honeycomb(brush: Brush) -> Figure:
    u, v = brush.frame()
    pitch = brush.scale(12, 30)
    centres = []
    for shift in (0.0, 0.5):
        column = (u / pitch + shift).floor()
        row = (v / (pitch * 3**0.5) + shift).floor()
        x = u - (column + 0.5 - shift) * pitch
        y = v - (row + 0.5 - shift) * pitch * 3**0.5
        centres.append((x, y, lot(column, row + 0.37 * shift, brush.uniform(0, 1))))
    (xa, ya, a), (xb, yb, b) = centres
    first = xa.square() + ya.square() < xb.square() + yb.square()
    x, y = torch.where(first, xa, xb).abs(), torch.where(first, ya, yb).abs()
    edge = torch.maximum(x, 0.5 * x + 0.75**0.5 * y) - 0.5 * pitch + brush.uniform(0.8, 2.0)
    return Figure(inside(edge), torch.where(first, a, b))


def mosaic(brush: Brush) -> Figure:
    """Cells around scattered points, with the joints between them."""
    points = 24
    cx, cy = brush.uniform(-54, 54, points, 1, 1), brush.uniform(-54, 54, points, 1, 1)
    distance = ((brush.x - cx).square() + (brush.y - cy).square()).sqrt()
    nearest, which = distance.topk(2, dim=1, largest=False)
    joint = brush.uniform(1.2, 3.0) - (nearest[:, 1] - nearest[:, 0])
    ink = brush.uniform(0, 1, points).gather(1, which[:, 0].flatten(1)).view_as(joint)
    return Figure(inside(joint), ink)


def arcs(brush: Brush) -> Figure:
    """Truchet tiles: two quarter circles per cell, turned at random, join into winding bands."""
    u, v = brush.frame()
    cell = brush.scale(14, 30)
    column, row = (u / cell).floor(), (v / cell).floor()
    x, y = u / cell - column, v / cell - row
    x = torch.where(lot(column, row, brush.uniform(0, 1)) < 0.5, x, 1 - x)
    near, far = (x.square() + y.square()).sqrt(), ((1 - x).square() + (1 - y).square()).sqrt()
    distance = torch.minimum((near - 0.5).abs(), (far - 0.5).abs()) - brush.uniform(0.1, 0.22)
    return Figure(inside(distance * cell), 0.5 + 0.25 * brush.clouds())


# --- noises ---------------------------------------------------------------------------------------


def turing(brush: Brush, low: float, high: float) -> Figure:
    """Noise of one wavelength, cut between `low` and `high` sd: high spots, or a labyrinth at 0."""
    frequency = 1 / brush.scale(8, 20)
    width = frequency * 0.16

    def annulus(fx: Tensor, fy: Tensor) -> Tensor:
        radius = (fx.square() + fy.square()).sqrt()
        return torch.exp(-((radius - frequency) / width).square())

    field = brush.noise(annulus) - brush.uniform(low, high)
    return Figure((field * brush.scale(1.5, 5) + 0.5).clamp(0, 1), 0.5 + 0.2 * brush.clouds())


def clouds(brush: Brush) -> Figure:
    field = brush.clouds(brush.uniform(1.5, 2.2))
    return Figure((0.5 + 0.3 * field).clamp(0, 1), 0.5 + 0.25 * brush.clouds())


def marble(brush: Brush) -> Figure:
    """Thin veins along the zero lines of two cloudy noises."""
    veins = [brush.clouds(1.9).abs() * brush.uniform(4, 9) for _ in range(2)]
    cover = torch.maximum(torch.exp(-veins[0]), 0.7 * torch.exp(-veins[1]))
    return Figure(cover, 0.5 + 0.25 * brush.clouds())


def brushed(brush: Brush) -> Figure:
    """Streaks: noise that is long in one direction and short across."""
    angle, across, along = brush.uniform(0, math.pi), brush.scale(3, 7), brush.scale(26, 60)

    def streak(fx: Tensor, fy: Tensor) -> Tensor:
        u, v = turn(fx, fy, angle)
        return torch.exp(-(u * across).square() - (v * along).square())

    field = brush.noise(streak)
    return Figure((0.5 + 0.45 * field).clamp(0, 1), 0.5 + 0.3 * brush.noise(streak))


def rainbow(brush: Brush) -> Figure:
    u, v = brush.frame()
    r, _ = hub(brush)
    path = torch.where(brush.uniform(0, 1) < 0.5, u + 5 * (v / 14).sin(), r)
    share = path / brush.scale(36, 110)
    return Figure(torch.ones_like(share), share - share.floor())


# --- shapes ---------------------------------------------------------------------------------------


def polygon(x: Tensor, y: Tensor, radius: Tensor, sides: Tensor, waist: Tensor) -> Tensor:
    """Signed distance to a star, inner corners at `waist` radii: a polygon at `cos(pi / sides)`."""
    half = math.pi / sides
    angle = (torch.atan2(x, y).remainder(2 * half) - half).abs()
    r = (x.square() + y.square()).sqrt()
    px, py = r * angle.cos() - radius * waist, r * angle.sin()
    ex, ey = radius * (half.cos() - waist), radius * half.sin()
    return (px * ey - py * ex) / (ex.square() + ey.square()).sqrt()


def circle(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    return (x.square() + y.square()).sqrt() - radius


def shape(brush: Brush, outline: Callable[[Brush, Spot], Tensor], tilt: float = math.pi) -> Figure:
    """One shape in several places, filled or, for a third of the samples, as a line."""
    spot = brush.lattice(24, 110, tilt)
    distance = outline(brush, spot)
    line = 0.09 * spot.radius + 0.8
    distance = torch.where(brush.uniform(0, 1) < 0.33, (distance + line).abs() - line, distance)
    return Figure(inside(distance) * spot.present, spot.lot)


def star(brush: Brush, spot: Spot) -> Tensor:
    waist = brush.uniform(0.38, 0.52)
    return polygon(spot.x, spot.y, spot.radius * 1.1, brush.one_of(5, 6, 7), waist)


def triangle(brush: Brush, spot: Spot) -> Tensor:
    three = torch.tensor(3.0)
    return polygon(spot.x, spot.y, spot.radius * 1.15, three, (math.pi / three).cos())


def cross(brush: Brush, spot: Spot) -> Tensor:
    x, y, arm = spot.x.abs(), spot.y.abs(), spot.radius * brush.uniform(0.22, 0.36)
    return torch.minimum(
        torch.maximum(x - spot.radius, y - arm), torch.maximum(y - spot.radius, x - arm)
    )


def heart(brush: Brush, spot: Spot) -> Tensor:
    """Two discs on the upper sides of a square that stands on its corner."""
    x, y, a = spot.x.abs(), -spot.y, spot.radius * 0.5
    square = (x + (y + 0.35 * a).abs() - 1.5 * a) * 0.7071
    return torch.minimum(square, circle(x - 0.75 * a, y - 0.4 * a, 1.06 * a))


def crescent(brush: Brush, spot: Spot) -> Tensor:
    bite = circle(spot.x - spot.radius * brush.uniform(0.4, 0.6), spot.y, spot.radius * 0.85)
    return torch.maximum(circle(spot.x, spot.y, spot.radius), -bite)


def disc(brush: Brush, spot: Spot) -> Tensor:
    return circle(spot.x, spot.y, spot.radius)


def flowers(brush: Brush) -> Figure:
    spot = brush.lattice(28, 110)
    r, angle = circle(spot.x, spot.y, 0), torch.atan2(spot.y, spot.x)
    petals = 0.72 + 0.28 * (brush.one_of(5, 6, 7, 8) * angle).cos()
    flower, heart_ = inside((r - spot.radius * petals) * 0.8), inside(r - spot.radius * 0.26)
    return Figure(flower * spot.present, heart_ + (1 - heart_) * 0.35 * spot.lot)


def faces(brush: Brush) -> Figure:
    """A disc with two eyes and a mouth, that smiles or not, nearly upright."""
    spot = brush.lattice(34, 110, 0.35)
    x, y, r = spot.x.abs() / spot.radius, spot.y / spot.radius, spot.radius
    eyes = circle(x - brush.uniform(0.28, 0.38), y + brush.uniform(0.15, 0.3), 0.15) * r
    lips = circle(x, y - brush.one_of(0.05, 0.95), 0.5).abs() * r - 0.06 * r - 0.5
    mouth = torch.maximum(lips, torch.maximum(0.28 - y, x - 0.42) * r)
    features = inside(torch.minimum(eyes, mouth))
    return Figure(inside(circle(spot.x, spot.y, r)) * spot.present * (1 - features), spot.lot)


def almond(spot: Spot, slim: Tensor) -> Tensor:
    """Signed distance to the overlap of two discs, as long as the spot and `slim` times as high."""
    lift = spot.radius * (1 / slim - slim) / 2
    return circle(spot.x, spot.y.abs() + lift, lift + spot.radius * slim)


def eyes(brush: Brush) -> Figure:
    spot = brush.lattice(36, 110, 0.4)
    slim = brush.uniform(0.5, 0.65)
    white = inside(almond(spot, slim))
    r = circle(spot.x, spot.y, 0)
    iris = inside(r - spot.radius * slim * 0.85)
    pupil = inside(r - spot.radius * slim * 0.4)
    return Figure(white * spot.present * (1 - 0.9 * pupil), 0.15 + 0.85 * iris)


def leaves(brush: Brush) -> Figure:
    """Almonds with a midrib and slanted veins."""
    spot = brush.lattice(30, 110)
    leaf = almond(spot, brush.uniform(0.4, 0.55))
    spacing = spot.radius * 0.36 + 1
    slant = spot.x - spot.y.abs() * brush.uniform(0.6, 1.0)
    veins = torch.minimum(spot.y.abs(), band(slant, spacing, 0.0).abs()) - 0.05 * spot.radius
    return Figure(inside(leaf) * spot.present * (1 - 0.85 * inside(veins)), spot.lot)


# Capitals as strokes between points of a grid 2 wide and 4 high, the first row on top.
LETTERS = {
    "A": "04 20 44 | 12 32", "E": "40 00 04 44 | 02 32", "F": "40 00 04 | 02 32",
    "H": "00 04 | 40 44 | 02 42", "K": "00 04 | 40 02 44", "M": "04 00 22 40 44",
    "N": "04 00 44 40", "P": "04 00 40 42 02", "R": "04 00 40 42 02 44",
    "S": "40 00 02 42 44 04", "T": "00 40 | 20 24", "Y": "00 22 40 | 22 24", "Z": "00 40 04 44",
}  # fmt: skip


def strokes(letter: str) -> Tensor:
    """The strokes of a letter (5,4): x, y of both ends in [-1, 1]; with fewer, the first recur."""
    lines = []
    for path in LETTERS[letter].split("|"):
        points = [(int(p[0]) / 2 - 1, int(p[1]) / 2 - 1) for p in path.split()]
        lines += [(*a, *b) for a, b in pairwise(points)]
    return torch.tensor((lines * 5)[:5])


ALPHABET = torch.stack([strokes(letter) for letter in LETTERS])


def letters(brush: Brush) -> Figure:
    """One capital for each sample, in several places."""
    spot = brush.lattice(28, 110, 0.3)
    which = torch.randint(len(ALPHABET), (brush.n,), generator=brush.generator)
    x, y = spot.x / (0.62 * spot.radius), spot.y / (0.9 * spot.radius)
    nearest = torch.full_like(x, 9.0)
    for stroke in ALPHABET[which].unbind(1):
        ax, ay, bx, by = (end.view(-1, 1, 1) for end in stroke.unbind(1))
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, circle(x - ax - along * ex, y - ay - along * ey, 0))
    distance = nearest * 0.75 * spot.radius - spot.radius * brush.uniform(0.12, 0.2) - 0.4
    return Figure(inside(distance) * spot.present, spot.lot)


# --- colour ---------------------------------------------------------------------------------------


def oklab_to_srgb(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """OKLab in polar form, any shape -> sRGB in [0, 1], (...,3): equal steps look equally large."""
    a, b = chroma * hue.cos(), chroma * hue.sin()
    cone = torch.stack(
        (
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ),
        -1,
    )
    matrix = torch.tensor(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (cone**3 @ matrix.T).clamp(0, 1)
    return torch.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def ramp(ends: Tensor, steps: int) -> Tensor:
    """(n,2) -> (n,steps), evenly from the first to the second."""
    return torch.lerp(ends[:, :1], ends[:, 1:], torch.linspace(0, 1, steps))


def make_palette(
    paper: tuple[Tensor, Tensor, Tensor], inks: tuple[Tensor, Tensor, Tensor]
) -> Palette:
    """Lightness, chroma and hue of both ends, each (n,2), for the paper and for the inks."""
    return Palette(oklab_to_srgb(*paper), oklab_to_srgb(*(ramp(value, INKS) for value in inks)))


def light_palette(brush: Brush) -> Palette:
    """Paper and inks that lightness tells apart, their hues related, opposite, or between."""
    u = partial(brush.uniform, 0.0, 1.0)
    light, hue = 0.25 + 0.7 * u(1), TAU * u(1)
    side = torch.where(light + 0.2 * (u(1) - 0.5) > 0.6, -1.0, 1.0)
    step = brush.one_of(0.0, 0.6, -0.6, 2.1, -2.1, math.pi).view(-1, 1) + 0.5 * (u(1) - 0.5)
    spread, start = 2 * u(2) - 1, torch.zeros(brush.n, 1)
    paper = (light + 0.05 * spread, (0.01 + 0.12 * u(1)).expand(-1, 2), hue + 0.3 * spread)
    ink_light = light + side * (0.3 + 0.22 * u(1))
    shade, drift = (torch.cat((start, width * (2 * u(1) - 1)), 1) for width in (0.08, 0.8))
    ink_light, ink_hue = (ink_light + shade).clamp(0.12, 0.97), hue + step + drift
    return make_palette(paper, (ink_light, (0.05 + 0.14 * u(1)).expand(-1, 2), ink_hue))


def hue_palette(brush: Brush) -> Palette:
    """Paper and inks of opposite hues and nearly the same lightness."""
    u = partial(brush.uniform, 0.0, 1.0)
    light, hue = 0.55 + 0.2 * u(1), TAU * u(1)
    ink_light = light + brush.one_of(-1, 1).view(-1, 1) * (0.03 + 0.1 * u(1))
    ink_hue = hue + math.pi + 1.6 * (u(1) - 0.5)
    spread, ink_spread = 2 * u(2) - 1, 2 * u(2) - 1
    chroma, ink_chroma = ((0.12 + 0.07 * u(1)).expand(-1, 2) for _ in range(2))
    paper = (light + 0.03 * spread, chroma, hue + 0.2 * spread)
    inks = (ink_light + 0.03 * spread, ink_chroma, ink_hue + 0.35 * ink_spread)
    return make_palette(paper, inks)


def any_palette(brush: Brush) -> Palette:
    """Either kind, as often: a network that met only the first would go by black and white."""
    light, hue = light_palette(brush), hue_palette(brush)
    by_hue = brush.uniform(0, 1) < 0.5
    return Palette(*(torch.where(by_hue, b, a) for a, b in zip(light, hue, strict=True)))


def rainbow_palette(brush: Brush) -> Palette:
    """Inks once around the hues, so that the last is the first."""
    u = partial(brush.uniform, 0.0, 1.0)
    start = TAU * u(1)
    hue = torch.cat((start, start + TAU * brush.one_of(-1, 1).view(-1, 1)), 1)
    light, chroma = (0.6 + 0.25 * u(1)).expand(-1, 2), (0.11 + 0.07 * u(1)).expand(-1, 2)
    return make_palette((light, chroma, hue), (light, chroma, hue))


# Hues of OKLab, in radians.
HUES = {"red": 0.42, "yellow": 1.68, "green": 2.5, "blue": 4.55}


def named_palette(brush: Brush, ink: str, paper: str) -> Palette:
    """Ink and paper of two named hues; lightness says nothing, since both are drawn alike."""

    def colours(hue: str) -> tuple[Tensor, Tensor, Tensor]:
        light, chroma = brush.uniform(0.48, 0.76, 1), brush.uniform(0.11, 0.2, 1)
        spread = brush.uniform(-1, 1, 2)
        return light + 0.04 * spread, chroma.expand(-1, 2), HUES[hue] + 0.22 * spread

    return make_palette(colours(paper), colours(ink))


def paint(brush: Brush, drawing: Figure, palette: Palette) -> Tensor:
    """Ink on paper, (n,3,S,S): the paper a gradient, faintly cloudy, the light a little uneven."""
    u, _ = brush.frame(shift=0.0)
    slope = (u / brush.size + 0.5 + 0.15 * brush.clouds()).clamp(0, 1).unsqueeze(-1)
    ends = palette.paper[:, :, None, None]
    paper = torch.lerp(ends[:, 0], ends[:, 1], slope)
    place = drawing.ink.clamp(0, 1).flatten(1).unsqueeze(-1) * (INKS - 1)
    lower = place.floor().clamp(max=INKS - 2)
    index = lower.long().expand(-1, -1, 3)
    inks = torch.lerp(
        palette.inks.gather(1, index), palette.inks.gather(1, index + 1), place - lower
    )
    strength = brush.uniform(0.8, 1.0)
    cover = (strength * drawing.cover).unsqueeze(-1)
    light = 1 + brush.uniform(0, 0.07) * brush.clouds()
    return (torch.lerp(paper, inks.view_as(paper), cover) * light.unsqueeze(-1)).permute(0, 3, 1, 2)


def photograph(brush: Brush, image: Tensor) -> Tensor:
    """A slight blur and colourless noise, as of a camera; clipped to [0, 1]."""
    taps = torch.arange(-2, 3)
    kernel = torch.exp(-0.5 * (taps / brush.uniform(0.25, 0.8, 1)).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = F.pad(image.reshape(1, -1, brush.size, brush.size), (2, 2, 2, 2), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    noise = torch.randn((brush.n, 1, brush.size, brush.size), generator=brush.generator)
    return (flat.view_as(image) + brush.uniform(0, 0.03, 1, 1, 1) * noise).clamp(0, 1)


# --- the catalogue --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texture:
    """How a class is drawn and coloured."""

    draw: Callable[[Brush], Figure]
    palette: Callable[[Brush], Palette] = any_palette


def discs(ink: str, paper: str) -> Texture:
    """Discs that differ from other discs by their colours alone."""
    return Texture(partial(shape, outline=disc), partial(named_palette, ink=ink, paper=paper))


def shapes(outline: Callable[[Brush, Spot], Tensor], tilt: float = math.pi) -> Texture:
    return Texture(partial(shape, outline=outline, tilt=tilt))


TEXTURES: dict[str, Texture] = {
    "stripes_horizontal": Texture(partial(stripes, direction=math.pi / 2)),
    "stripes_vertical": Texture(partial(stripes, direction=0.0)),
    "stripes_rising": Texture(partial(stripes, direction=math.pi / 4)),
    "stripes_falling": Texture(partial(stripes, direction=-math.pi / 4)),
    "waves": Texture(waves),
    "zigzag": Texture(zigzag),
    "checks": Texture(checks),
    "plaid": Texture(plaid),
    "hatching": Texture(hatching),
    "weave": Texture(weave),
    "dots": Texture(dots),
    "bubbles": Texture(bubbles),
    "rings": Texture(rings),
    "spirals": Texture(spirals),
    "sunburst": Texture(sunburst),
    "bricks": Texture(bricks),
    "scales": Texture(scales),
    "honeycomb": Texture(honeycomb),
    "mosaic": Texture(mosaic),
    "arcs": Texture(arcs),
    "labyrinth": Texture(partial(turing, low=-0.2, high=0.2)),
    "spots": Texture(partial(turing, low=0.9, high=1.2)),
    "clouds": Texture(clouds),
    "marble": Texture(marble),
    "brushed": Texture(brushed),
    "rainbow": Texture(rainbow, rainbow_palette),
    "stars": shapes(star),
    "triangles": shapes(triangle),
    "crosses": shapes(cross),
    "hearts": shapes(heart, 0.6),
    "crescents": shapes(crescent),
    "flowers": Texture(flowers),
    "faces": Texture(faces),
    "eyes": Texture(eyes),
    "leaves": Texture(leaves),
    "letters": Texture(letters),
    "red_on_green": discs("red", "green"),
    "green_on_red": discs("green", "red"),
    "blue_on_yellow": discs("blue", "yellow"),
    "yellow_on_blue": discs("yellow", "blue"),
}


class Batch(NamedTuple):
    """`images` (N,3,96,96) in [0, 1], `labels` (N,), `colours` (N,6): mean RGB of paper and ink."""

    images: Tensor
    labels: Tensor
    colours: Tensor


def draw_class(name: str, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n fresh images of one class (n,3,96,96) and their colours (n,6)."""
    brush = Brush(n, generator)
    texture = TEXTURES[name]
    palette = texture.palette(brush)
    image = paint(brush, texture.draw(brush), palette)
    return photograph(brush, image), torch.cat((palette.paper.mean(1), palette.inks.mean(1)), 1)


def draw(per_class: int, generator: torch.Generator, names: Iterable[str] = TEXTURES) -> Batch:
    """`per_class` fresh samples of every class, in random order."""
    labels = {name: label for label, name in enumerate(TEXTURES)}
    parts = [(labels[name], *draw_class(name, per_class, generator)) for name in names]
    order = torch.randperm(len(parts) * per_class, generator=generator)
    return Batch(
        torch.cat([images for _, images, _ in parts])[order],
        torch.tensor([label for label, _, _ in parts]).repeat_interleave(per_class)[order],
        torch.cat([colours for _, _, colours in parts])[order],
    )
