"""Pictures that come twice: the same bytes, or the same picture saved, sized, mirrored or cut otherwise."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shards.reading.decode import decode
from shards.reading.reader import Reader

CANDIDATES = 0.8  # least cosine of features of pairs whose small copies are compared
MOST = 100  # of these pairs for an image, the most alike; random features would have all images compared with all
COPIES = 8192  # small copies that are held, 36 KB each
SIDE = 16  # pixels of these copies
BLOCK = 2048  # images whose likeness to all others is held at a time
SHIFTS = (0.0, 0.02, 0.04, 0.06)  # shares of the side that a cut copy may lack on every side


@dataclass(frozen=True)
class Pair:
    """Two images, by their places in the manifest, and how alike they are, 0 to 1."""

    first: int
    second: int
    likeness: float


def exact_groups(reader: Reader, indices: Sequence[int]) -> list[list[int]]:
    """Groups of images with the same bytes, in the order in which they begin."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index in indices:
        groups[hashlib.sha256(reader.read(index)).digest()].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_pairs(
    features: np.ndarray, mirrored: np.ndarray, reader: Reader, indices: Sequence[int], least: float
) -> tuple[list[Pair], int]:
    """Pairs that look the same although their bytes differ, most alike first; and of how many images only the `MOST`
    nearest were compared.

    features, mirrored: (N, D) of these images and of their mirror images; pairs whose centred features have a cosine of
    `CANDIDATES` are compared pixel by pixel: a pair's likeness is the correlation of its small grey copies. Features
    alone take two birds of a species in one pose for one, copies alone two grey skies. least: the smallest likeness
    that counts.
    """
    centre = features.mean(0)
    plain, mirror = (_unit(rows - centre) for rows in (features, mirrored))
    small = lru_cache(COPIES)(lambda place: _small(reader, indices[place]))
    pairs, cut_short = [], 0
    for begin in range(0, len(plain), BLOCK):
        block = plain[begin : begin + BLOCK]
        alike = np.maximum(block @ plain.T, block @ mirror.T)
        for first, cosines in enumerate(alike, start=begin):
            later = first + 1 + np.flatnonzero(cosines[first + 1 :] >= CANDIDATES)
            cut_short += len(later) > MOST
            for other in later[np.argsort(-cosines[later], kind="stable")[:MOST]].tolist():
                likeness = correlation(small(first), small(other))
                if likeness >= least:
                    pairs.append(Pair(indices[first], indices[other], round(min(likeness, 1.0), 4)))
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second)), cut_short


def kept_together(folds: np.ndarray, groups: Sequence[Sequence[int]], indices: Sequence[int]) -> np.ndarray:
    """Folds in which copies share one, whatever chain of groups joins them: a wrong label would be confirmed by its
    copy's. folds: (N,), of the images `indices`."""
    row = {index: place for place, index in enumerate(indices)}
    links = [(row[group[0]], row[index]) for group in groups for index in group[1:]]
    rows, columns = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(folds), len(folds)))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return folds[first[component]]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two (H, W) grey pictures, the best over mirroring and cutting either a little; -1 to 1."""
    best = -1.0
    for shift in SHIFTS:
        for one, other in ((a, _cut(b, shift)), (_cut(a, shift), b)) if shift else ((a, b),):
            for seen in (other, other[:, ::-1]):
                best = max(best, _pearson(one, seen))
    return best


def _cut(picture: np.ndarray, share: float) -> np.ndarray:
    height, width = picture.shape
    y, x = round(height * share), round(width * share)
    return picture[y : height - y, x : width - x]


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (
        cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel() for each in (a, np.ascontiguousarray(b))
    )
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))


def _small(reader: Reader, index: int) -> np.ndarray:
    """A grey copy of an image, a few times larger than what is compared, so that it can be cut first."""
    pixels = decode(reader.read(index), reader.manifest.entries.key(index)).permute(1, 2, 0).numpy()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (6 * SIDE, 6 * SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
