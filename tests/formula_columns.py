"""The columns of a formula, written down a second time with SciPy's splines."""

import numpy as np
import pandas as pd
from scipy.interpolate import BSpline

FORMULA = "bs(age, df=4, lower_bound=15, upper_bound=75) + sex + age:sex"


def b_splines(values: np.ndarray, inner: list[float], low: float, high: float, degree: int = 3) -> np.ndarray:
    """B-splines with given inner knots, without the first one, (value, column)."""
    knots = np.r_[[low] * (degree + 1), inner, [high] * (degree + 1)]
    return BSpline.design_matrix(np.asarray(values, float), knots, degree).toarray()[:, 1:]


def columns_of(scans: pd.DataFrame, first: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of :data:`FORMULA` that others do not determine; the inner knot is the median of the first scans.

    In the product, age counts from the mean of these scans.
    """
    age, is_male = scans.age.to_numpy(float), (scans.sex == "M").to_numpy(float)
    spline = b_splines(age, [float(np.median(age[first]))], 15, 75)
    columns = {f"bs(age, df=4, lower_bound=15, upper_bound=75)[{k + 1}]": spline[:, k] for k in range(4)}
    return columns | {"sex[M]": is_male, "age:sex[M]": (age - age[first].mean()) * is_male}
