"""How well any classifier can do on labels that readers made: a nonparametric mixture of raters.

One assumption: a nodule has shares of the five ratings, which its image determines, and each
reader's rating is a draw from them, independent of the other readers' and of a classifier's. How
the shares are spread over nodules is left free, a mixture over a grid of all possible shares. A
classifier can then at best know a nodule's shares, and give it the label that a panel drawn from
them would give more often. What the readers see alike and wrongly belongs to the shares.

Lindsay 1995, mixtures; Murphy and van der Vaart 2000, profile likelihood.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2

from nodulebook.core.errors import InputError
from nodulebook.stats.readers import MIDDLE, N_RATINGS, Array

GRID_STEPS = 10
"""The shares of a nodule are tenths: 1,001 points."""

STEPS_OF_EM = 1500

Of = Literal["accuracy", "auc"]


def share_grid(steps: int = GRID_STEPS) -> Array:
    """All shares of five ratings that are multiples of 1 / steps, (points, 5)."""
    bars = combinations(range(steps + N_RATINGS - 1), N_RATINGS - 1)
    edges = [(-1, *bar, steps + N_RATINGS - 1) for bar in bars]
    return (np.diff(edges, axis=1) - 1) / steps


def label_shares(shares: Array, readers: int) -> tuple[Array, Array]:
    """Probability that the mean of so many readers is above 3, and below 3; shares (points, 5)."""
    total = np.ones((len(shares), 1))
    for _ in range(readers):  # the distribution of a sum: a convolution for each reader
        grown = np.zeros((len(shares), total.shape[1] + N_RATINGS - 1))
        for rating in range(N_RATINGS):
            grown[:, rating : rating + total.shape[1]] += shares[:, [rating]] * total
        total = grown
    middle = (MIDDLE - 1) * readers
    return total[:, middle + 1 :].sum(axis=1), total[:, :middle].sum(axis=1)


@dataclass(frozen=True, eq=False)
class Panel:
    """What readers make of nodules with given shares; arrays of the grid's length."""

    shares: Array  # (points, 5)
    malignant: Array  # probability of a mean above 3, numbers of readers as in the data
    benign: Array  # of a mean below 3
    same: Array  # of two such panels giving the same label
    both: Array  # of both giving one

    @property
    def right(self) -> Array:
        """Probability of a label and of its being the likelier one."""
        best: Array = np.maximum(self.malignant, self.benign)
        return best


def panel(shares: Array, readers: Sequence[int]) -> Panel:
    """Panels of as many readers as the nodules have; shares (points, 5)."""
    numbers, times = np.unique(list(readers), return_counts=True)
    parts = times / times.sum()
    labels = [label_shares(shares, int(n)) for n in numbers]
    up, down = (np.array([one[k] for one in labels]) for k in (0, 1))
    return Panel(
        shares, parts @ up, parts @ down, parts @ (up**2 + down**2), parts @ (up + down) ** 2
    )


@dataclass(frozen=True)
class Expectation:
    """What a mixture says, and how well it fits."""

    accuracy: float  # of a classifier that knows every nodule's shares
    auc: float  # of the same
    second_panel: float  # how often another panel of as many readers gives the same label
    reader_auc: float  # one reader's against the label of the others, to compare with the data
    halves: float  # how often two panels of two agree, to compare with the data
    log_likelihood: float


class Mixture:
    """Fits mixtures of shares to nodules' ratings (EM; the nonparametric likelihood)."""

    def __init__(self, ratings: Sequence[tuple[int, ...]], steps: int = GRID_STEPS) -> None:
        """Count the ratings, 1 to 5, of each nodule; `steps` of the grid.

        Raises:
            InputError: there is no nodule with two ratings.
        """
        if not ratings or max(len(one) for one in ratings) < 2:
            raise InputError("the model needs nodules with at least two ratings")
        counts = [np.bincount(one, minlength=N_RATINGS + 1)[1:] for one in ratings]
        patterns, times = np.unique(counts, axis=0, return_counts=True)
        self.readers = [len(one) for one in ratings]
        shares = share_grid(steps)
        any_order = panel(shares, self.readers)
        odds = any_order.malignant / np.maximum(any_order.malignant + any_order.benign, 1e-12)
        shares = shares[np.argsort(odds, kind="stable")]  # the best score rises along the grid
        self.panel = panel(shares, self.readers)
        self.times = times.astype(float)
        self.likelihood = np.exp(patterns @ np.log(np.maximum(shares, 1e-9)).T)
        self.even = np.full(len(shares), 1 / len(shares))

    def fit(self, pull: float = 0.0, start: Array | None = None, of: Of = "accuracy") -> Array:
        """The likeliest weights of the grid's points, or with a pull those that lean from them.

        Args:
            pull: maximises log likelihood a nodule + pull x accuracy or AUC of the best classifier.
            start: weights to start from; a tenth of even ones is mixed in, or none could grow.
            of: what is pulled.
        """
        weight = self.even if start is None else 0.9 * start + 0.1 * self.even
        slope = self._slope_of_accuracy if of == "accuracy" else self._slope_of_auc
        for _ in range(STEPS_OF_EM):
            gain = self.likelihood.T @ (self.times / (self.likelihood @ weight)) / self.times.sum()
            if pull:
                gain += pull * slope(weight)
            weight = weight * np.maximum(gain, 0)
            weight /= weight.sum()
        return weight

    @cached_property
    def best(self) -> Array:
        """The likeliest weights."""
        return self.fit()

    def _slope_of_accuracy(self, weight: Array) -> Array:
        right, labelled = self.panel.right, self.panel.malignant + self.panel.benign
        whole = labelled @ weight
        slope: Array = (right - (right @ weight) / whole * labelled) / whole
        return slope

    def _slope_of_auc(self, weight: Array) -> Array:
        up, down = self.panel.malignant, self.panel.benign
        malignant, benign = weight * up, weight * down
        below = np.cumsum(benign) - benign / 2
        above = malignant.sum() - np.cumsum(malignant) + malignant / 2
        pairs = malignant.sum() * benign.sum()
        auc = (malignant * below).sum() / pairs
        slope: Array = (up * below + down * above) / pairs
        slope -= auc * (up / malignant.sum() + down / benign.sum())
        return slope

    def expectation(self, weight: Array) -> Expectation:
        """What a mixture says."""
        up, down = self.panel.malignant, self.panel.benign
        two_up, two_down = label_shares(self.panel.shares, 2)
        return Expectation(
            accuracy=float(self.panel.right @ weight / ((up + down) @ weight)),
            auc=_auc(weight * up, weight * down),
            second_panel=float(self.panel.same @ weight / (self.panel.both @ weight)),
            reader_auc=self._reader_auc(weight),
            halves=float((two_up**2 + two_down**2) @ weight / ((two_up + two_down) ** 2 @ weight)),
            log_likelihood=float(self.times @ np.log(self.likelihood @ weight)),
        )

    def _reader_auc(self, weight: Array) -> float:
        """AUC of a single rating against the label of the others, every reader counted once."""
        malignant, benign = np.zeros(N_RATINGS), np.zeros(N_RATINGS)
        for n, times in zip(*np.unique(self.readers, return_counts=True), strict=True):
            up, down = label_shares(self.panel.shares, int(n) - 1)
            malignant += n * times * (weight * up) @ self.panel.shares
            benign += n * times * (weight * down) @ self.panel.shares
        return _auc(malignant, benign)


def _auc(malignant: Array, benign: Array) -> float:
    """AUC of a score with these weights of the classes at its increasing values."""
    below = np.cumsum(benign) - benign
    return float((malignant * (below + benign / 2)).sum() / (malignant.sum() * benign.sum()))


def limits(mixture: Mixture, of: Of = "accuracy") -> tuple[Expectation, Expectation, Expectation]:
    """The likeliest mixture, and those with the lowest and highest accuracy (AUC) allowed.

    Profile likelihood: the log likelihood of the limits is half the 95 % quantile of chi-squared
    below the highest. Nodules of one patient count as independent.
    """
    middle = mixture.expectation(mixture.best)
    drop = float(chi2.ppf(0.95, 1)) / 2
    low, high = (_pulled(mixture, of, sign, middle, drop) for sign in (-1.0, 1.0))
    return middle, low, high


def _pulled(mixture: Mixture, of: Of, sign: float, middle: Expectation, drop: float) -> Expectation:
    """The mixture whose log likelihood has fallen by `drop`, pulled down or up.

    On a coarse grid the fall may jump over `drop`: then it is the nearest one beyond.
    """

    def beyond(found: Expectation) -> float:
        # The fall grows about as the square of the pull: its root is nearly a straight line.
        return float(np.sqrt(max(middle.log_likelihood - found.log_likelihood, 0) / drop)) - 1

    return _first_pull(mixture, of, sign * 0.1, beyond)


def fall_at(mixture: Mixture, value: float, of: Of = "accuracy") -> float:
    """How far the log likelihood falls before a classifier that knows all could be so good.

    Returns:
        The fall of a mixture that just reaches `value`, an accuracy or AUC above that of the
        likeliest mixture.

    Raises:
        InputError: none reaches it.
    """
    found = _first_pull(mixture, of, 0.5, lambda one: float(getattr(one, of)) - value)
    if getattr(found, of) < value:
        raise InputError(f"no mixture reaches an {of} of {value}")
    return mixture.expectation(mixture.best).log_likelihood - found.log_likelihood


STRONGEST = 1e3
"""No pull is stronger: the weights are then where the pull alone would have them."""


def _first_pull(
    mixture: Mixture, of: Of, pull: float, beyond: Callable[[Expectation], float]
) -> Expectation:
    """What the weakest pull gives that is `beyond` (at least 0), to a few thousandths of the pull.

    That of the strongest pull where none is. `pull` is the first one tried, and says which way.
    """
    tried: dict[float, Expectation] = {0.0: mixture.expectation(mixture.best)}

    def at(pull: float) -> float:
        if pull not in tried:
            tried[pull] = mixture.expectation(mixture.fit(pull, mixture.best, of))
        return beyond(tried[pull])

    weak = 0.0
    while at(pull) < 0:
        if abs(pull) > STRONGEST:
            return tried[pull]
        weak, pull = pull, 2 * pull
    if at(weak) < 0:
        brentq(at, weak, pull, xtol=0.002 * abs(pull), rtol=0.001)
    return tried[min((one for one in tried if at(one) >= 0), key=abs)]
