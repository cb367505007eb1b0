"""Covariates by formula: columns equal independent computations, are frozen in the run, and no text is ever evaluated."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cases import by_formula
from formula_columns import FORMULA, b_splines, columns_of
from posteriors import complete, make_learned
from scipy.interpolate import CubicSpline
from studies import own_parts, random_study
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.data.dataset import load_dataset
from bayesharm.errors import InputError
from bayesharm.evaluation.fold_evaluation import _in_all_folds
from bayesharm.harmonization.harmonize import harmonize
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.covariates import covariates_from_dict
from bayesharm.model.design import build_design
from bayesharm.model.formula.basis import basis_from_dict, learn_basis
from bayesharm.model.formula.text import covariate_columns, parse_formula
from bayesharm.model.spec_rules import spec_from_dict
from bayesharm.results.posterior import load_posterior

EXACT = 1e-12
TRAVELING = load_model("traveling")


def make_table(n: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "scan_id": [f"s{k}" for k in range(n)],
        "age": rng.uniform(20, 80, n),
        "sex": rng.permutation(["F", "M"] * (n // 2)),
        "wave": rng.permutation([1, 2, 3, 3] * (n // 4)),
        "head size": rng.normal(1500, 100, n),
        "smokes": rng.permutation([True, False] * (n // 2)),
    })  # fmt: skip


TABLE = make_table()
AGE, MALE, SIZE = TABLE.age.to_numpy(), (TABLE.sex == "M").to_numpy(float), TABLE["head size"].to_numpy()
SECOND, THIRD = ((TABLE.wave == k).to_numpy(float) for k in (2, 3))


def natural_splines(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Cardinal natural cubic splines, linear beyond the outer knots: each is 1 at one knot and 0 at the others."""
    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")(values)


def legendre(values: np.ndarray, degree: int) -> np.ndarray:
    """Orthonormal polynomials by QR, signed as their leading coefficient."""
    q, r = np.linalg.qr(np.vander(values, degree + 1, increasing=True))
    return (q * np.sign(np.diag(r)))[:, 1:]


COLUMNS = {
    "age + sex": {"age": AGE, "sex[M]": MALE},
    "age * sex": {"age": AGE, "sex[M]": MALE, "age:sex[M]": (AGE - AGE.mean()) * MALE},  # sex is in the model: from the mean
    "~ 1 + age/sex": {"age": AGE, "age:sex[M]": AGE * MALE},
    "sex %in% age": {"age": AGE, "age:sex[M]": AGE * MALE},
    "(age + sex + smokes)**2 - age:sex - age": {
        "sex[M]": MALE, "smokes": TABLE.smokes, "age:smokes": (AGE - AGE.mean()) * TABLE.smokes,
        "sex[M]:smokes": MALE * (TABLE.smokes - TABLE.smokes.mean()),
    },
    "`head size` + log(`head size`)": {"head size": SIZE, "log(`head size`)": np.log(SIZE)},
    "log2(age) + log10(`head size`) + sqrt(age)": {
        "log2(age)": np.log2(AGE), "log10(`head size`)": np.log10(SIZE), "sqrt(age)": np.sqrt(AGE)},
    "exp(scale(age)) + center(`head size`)": {
        "exp(scale(age))": np.exp((AGE - AGE.mean()) / AGE.std(ddof=1)), "center(`head size`)": SIZE - SIZE.mean()},
    "standardize(age)": {"standardize(age)": (AGE - AGE.mean()) / AGE.std()},
    "poly(age, 3)": {f"poly(age, 3)[{k + 1}]": legendre(AGE, 3)[:, k] for k in range(3)},
    "poly(age, degree=2, raw=True)": {f"poly(age, degree=2, raw=True)[{k}]": AGE ** (k + 1) for k in range(2)},
    "C(wave)": {"C(wave)[2]": SECOND, "C(wave)[3]": THIRD},
    "C(wave, contr.treatment(2))": {
        "C(wave, contr.treatment(2))[1]": 1 - SECOND - THIRD, "C(wave, contr.treatment(2))[3]": THIRD},
    "C(wave, contr.sum)": {
        "C(wave, contr.sum)[S.1]": 1 - SECOND - 2 * THIRD, "C(wave, contr.sum)[S.2]": SECOND - THIRD},
    "C(sex, levels=['M', 'F'])": {"C(sex, levels=['M', 'F'])[F]": 1 - MALE},
    "C(sex, Treatment('M'))": {"C(sex, Treatment('M'))[F]": 1 - MALE},
    "bs(age, knots=[40, 60])": {
        f"bs(age, knots=[40, 60])[{k + 1}]": b_splines(AGE, [40, 60], AGE.min(), AGE.max())[:, k] for k in range(5)},
    "bs(log(age), 3, degree=2)": {
        f"bs(log(age), 3, degree=2)[{k + 1}]": b_splines(np.log(AGE), [np.median(np.log(AGE))], np.log(AGE.min()),
                                                       np.log(AGE.max()), 2)[:, k] for k in range(3)},
    # cardinal splines add up to one, which the mean determines: the first is left out
    "cr(age, knots=[35, 55])": {
        f"cr(age, knots=[35, 55])[{k + 1}]": natural_splines(AGE, np.r_[AGE.min(), 35, 55, AGE.max()])[:, k]
        for k in (1, 2, 3)},
}  # fmt: skip


@pytest.mark.parametrize("formula", COLUMNS)
def test_columns_equal_an_independent_computation(formula):
    basis, values = learn_basis(formula, TABLE, {})
    expected = COLUMNS[formula]
    assert [basis.columns[k] for k in basis.kept] == list(expected)
    np.testing.assert_allclose(values, np.column_stack(list(expected.values())), rtol=EXACT, atol=EXACT)


MORE = ["bs(age, df=4)*sex", "cr(age, df=4)*sex", "poly(age, 2)*`head size`", "age*`head size`*sex", "age*`head size` - age",
        "age:sex + `head size`:sex + age:`head size`:sex",
        "cc(age, df=4)", "cr(age, df=5, constraints='center')", "cs(age, 4):sex", "C(wave, contr.helmert)*smokes",
        "C(wave, contr.poly)", "C(wave, Diff) + C(sex, contr.SAS)", "bs(age, df=5, extrapolation='clip')"]  # fmt: skip


@pytest.mark.parametrize("formula", [*COLUMNS, *MORE])
def test_columns_equal_those_of_formulaic(formula):
    from formulaic import model_matrix

    basis, values = learn_basis(formula, TABLE, {})
    expected = model_matrix(formula, TABLE, context={"sqrt": np.sqrt})
    named = [name.replace("[T.", "[") for name in expected.columns[1:]]
    assert named == list(basis.columns)
    theirs = expected.to_numpy(float)[:, list(np.array(basis.kept) + 1)]
    centered = np.isin([basis.terms[k] for k in basis.kept], list(basis.centers))
    np.testing.assert_array_equal(values[:, ~centered], theirs[:, ~centered])
    both = [np.column_stack([np.ones(len(TABLE)), each]) for each in (values, theirs)]  # products: the same span
    np.testing.assert_allclose(both[0] @ np.linalg.lstsq(*both)[0], both[1], atol=1e-6)


@pytest.mark.parametrize("formula", [*COLUMNS, *MORE])
def test_columns_are_the_same_from_plain_data_and_for_parts_of_the_scans(formula):
    basis, values = learn_basis(formula, TABLE, {})
    restored = basis_from_dict(json.loads(json.dumps(basis.to_dict())))
    assert restored == basis
    np.testing.assert_array_equal(restored.values(TABLE), values)
    for rows in ([7], [3, 50, 2]):
        np.testing.assert_allclose(restored.values(TABLE.iloc[rows]), values[rows], rtol=EXACT, atol=EXACT)
    typical = pd.DataFrame([basis.typical])
    assert np.isfinite(restored.values(typical)).all()
    assert basis == restored  # nothing was learned anew


def test_columns_are_frozen_across_processes(tmp_path):
    formulas = ["bs(age, df=4) + sex + age:sex", "poly(age, 3) + scale(`head size`) + C(wave, contr.sum)",
                "cr(age, df=4, constraints='center')"]  # fmt: skip
    bases = [learn_basis(formula, TABLE, {})[0] for formula in formulas]
    new = make_table(40).assign(age=np.linspace(25, 75, 40))
    new.to_json(tmp_path / "new.json", double_precision=15)
    (tmp_path / "bases.json").write_text(json.dumps([basis.to_dict() for basis in bases]))
    code = """if True:
        import json, sys
        import pandas as pd
        from bayesharm.model.formula.basis import basis_from_dict
        new = pd.read_json(sys.argv[1] + "/new.json")
        records = json.load(open(sys.argv[1] + "/bases.json"))
        print(json.dumps([basis_from_dict(record).values(new).tolist() for record in records]))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    table = pd.read_json(tmp_path / "new.json")
    for basis, values in zip(bases, json.loads(done.stdout), strict=True):
        np.testing.assert_allclose(basis.values(table), values, rtol=EXACT, atol=EXACT)


HOSTILE = [
    "__import__('os').system('touch HACKED')", "{__import__('os').system('touch HACKED')}", "eval('1')", "exec('x')",
    "open('HACKED', 'w')", "log(open('HACKED', 'w'))", "log(age, open('HACKED', 'w'))", "os.system('touch HACKED')",
    "C(sex, contr.custom([1]))", "C(sex, contr.__class__)", "C(sex, contr.treatment(open))", "C(sex, {'a': [1]})",
    "{age.__class__.__mro__}", "log(age.__class__)", "log(`age`.values)", "np.log(age)", "age[0]", "log(age)[0]", "[age]",
    "{lambda x: x}", "{[x for x in y]}", "log(lambda: 1)", "log(age := 3)", "log(age if 1 else 2)", "log(-age)", "log(1)",
    "log({age})", "{{age}}", "{" * 40 + "age" + "}" * 40, "{age + 1}", "I(age**2)", "I(age)", "Q('age')",
    "hashed(sex, levels=3)", "lag(age)", "log(f'{age}')", "f'{age}'", "log(b'age')", "'age'", "log('age')",
    "bs(age, df=10**9)", "bs(age, df=1000000000)", "bs(age, df=1e9)", "bs(age, df=True)", "bs(age, knots=range(10**9))",
    "bs(age, knots=[[1]])", "bs(age, knots=[1e999])", "bs(age, df='4')", "bs(age, df=x)", "poly(age, 1000000)",
    "scale(age, center=open)", "bs(*age)", "bs(**age)", "bs()", "bs(df=4)", "bs(age, df=" + "-" * 1500 + "4)",
    "(a + b + c)**50", "((a + b)**9)**9", "a**1000000000", "(a + b)**99999999999999999999", "a:b" * 100,
    "+".join(["a"] * 150), "a" * 3000, "(" * 150 + "a" + ")" * 150, "log(" * 150 + "a" + ")" * 150, "log(" * 500,
    "a\x00b", "log(a\x00)", "age\u202e+sex", "\ud800", "log('\ud800')", "\u200bage", "😀", "💥(age)", "ｅｖａｌ('1')",
    "ﬁle(age)", "age; import os", "age\nimport os", "age == 1", "age & sex", "age @ sex", "`", "``", "`age", "%%", "age %",
    "%in%", ".", "age + .", "age.__class__ | sex", "C(C(sex))", "log(bs(age))", "log(log(log(log(age))))",
]  # fmt: skip


@pytest.mark.parametrize("formula", HOSTILE)
def test_nothing_but_columns_and_known_functions_is_accepted(formula, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as error:
            parse_formula(formula)
    assert str(error.value).isprintable() or "\n" in str(error.value)
    assert len(str(error.value)) < 1000 and not list(tmp_path.iterdir())


def test_names_of_python_are_only_names_of_columns():
    """A name without a call is looked up in the table, and only there."""
    for name in ("np", "contr", "__builtins__", "age.__class__", "bs", "Q"):
        with pytest.raises(InputError, match="no column"):
            learn_basis(f"age + {name}", TABLE, {})
    odd = {"np": AGE, "a:b": SIZE, "1": AGE**2, "log(age)": MALE + AGE / 9, "__x": np.arange(80.0), "true love": SIZE**2}
    basis, values = learn_basis("np + `a:b` + `1` + `log(age)` + log(age) + __x + log(`true love`)", TABLE.assign(**odd), {})
    expected = [odd["np"], SIZE, odd["1"], odd["log(age)"], np.log(AGE), odd["__x"], np.log(SIZE**2)]
    assert basis.columns == ("np", "`a:b`", "`1`", "`log(age)`", "log(age)", "__x", "log(`true love`)")
    np.testing.assert_array_equal(values, np.column_stack(expected))


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "no terms"),
        ("1", "no terms"),
        ("age - age", "no terms"),
        ("y ~ age", r"two sides[\s\S]*character 3[\s\S]*leave the left side out"),
        ("age | sex", "two sides"),
        ("0 + age", r"leaves the mean out[\s\S]*every model here has a mean"),
        ("age - 1", "leaves the mean out"),
        ("-1 + age", "leaves the mean out"),
        ("age + ", r"syntax error at character 5: Operator `\+`"),
        ("age sex", "Missing operator between `age` and `sex`"),
        ("age + (sex", "character 7"),
        ("bs(age df=4)", r"syntax error: invalid syntax\. Perhaps you forgot a comma\?\n[\s\S]*character 1"),
        ("sex + bz(age, df=4)", r"calls 'bz'[\s\S]*character 7[\s\S]*the functions bs, cr[\s\S]*write bs if that is meant"),
        ("sin(age)", r"calls 'sin'[\s\S]*compute this column in the scans table, and write its name"),
        ("log(age - 30)", r"log\(age - 30\), at character 1[\s\S]*do this: compute this column in the scans table"),
        ("I(age**2)", r"calls 'I'[\s\S]*poly\(age, 2\)"),
        ("age**2", r"a power of one column is the column itself; for polynomials use poly\(age, 2\)"),
        ("(age + sex)**x", "a power is a whole number"),
        ("2:age", "multiplies a term by a number"),
        ("2*age", r"multiplies a term by a number[\s\S]*leave the number out"),
        ("log(age.years)", r"`age.years`"),
        ("bs(age, df=2)", r"below its degree[\s\S]*3 or more"),
        ("bs(age, df=4, knots=[30])", "needs either df or knots"),
        ("cr(age)", "needs either df or knots"),
        ("bs(age, order=4)", "no argument 'order'[\\s\\S]*df, knots, degree"),
        ("bs(age, df=4, df=5)", "syntax error|twice"),
        ("bs(age, extrapolation='na')", "'raise', 'clip', 'extend'"),
        ("age + sex age", "Missing operator"),
    ],
)
def test_errors_of_the_text_show_the_part_and_what_to_do(formula, message):
    with pytest.raises(InputError, match=message):
        parse_formula(formula)


def refused(formula: str, table: pd.DataFrame = TABLE, others=None) -> str:
    with pytest.raises(InputError) as error:
        learn_basis(formula, table, others or {})
    return str(error.value)


def test_all_problems_of_the_table_of_a_fit_come_together():
    table = TABLE.astype({"age": float, "wave": float}).assign(date=pd.Timestamp("2020-01-01"), one=1.0)
    table.loc[3, "age"], table.loc[4, "head size"], table.loc[[5, 6], "wave"] = np.nan, -2, np.inf
    message = refused("log(`head size`) + agee + age + wave + date + one + C(scan_id) + log(sex)", table)
    for part in ("8 problems", "no column 'agee'", "write 'age' if that is meant", "'age' of the formula has missing",
                 "no value for scans 's3'", "log(`head size`) has no value", "'s4' (-2)", "positive numbers", "'s5', 's6'",
                 "neither numbers nor categories", "'one' of the formula is the same", "too many categories",
                 "80 for 80 scans", "'sex' as a number, but it has categories", "write sex alone"):  # fmt: skip
        assert part in message, part


def test_columns_that_the_data_do_not_support_are_refused():
    mixed = TABLE.assign(
        mixed=[*"x", *map(str, range(79))], half=np.where(MALE, "a", "b"), hidden=np.where(MALE, "__a", "b")
    )
    assert "numeric except for some values" in refused("mixed", mixed)
    assert "begin with two underscores" in refused("hidden", mixed)
    assert "sex[M]:half[b]" in refused("sex:half", mixed.assign(sex=np.where(MALE, "M", mixed.sex)))
    assert "reference category of C(sex, Treatment('x'))" in refused("C(sex, Treatment('x'))")
    assert "levels lack" in refused("C(sex, levels=['F', 'X'])")
    assert "knots of bs(age, knots=[200]) are not within" in refused("bs(age, knots=[200])")
    assert "cannot be computed" in refused("poly(wave, 4)") and "cannot be computed" in refused("cr(wave, df=9)")
    assert "outside the range of bs(age, lower_bound=50)" in refused("bs(age, lower_bound=50)")
    few = TABLE[:12]
    assert "11 columns for 12 scans in the model\n  expected: at most 10" in refused("bs(age, df=11)", few)
    many = TABLE.assign(**{name: np.random.default_rng(k).permutation(20).repeat(4) for k, name in enumerate("abc")})
    assert "8,000 columns for 80 scans" in refused("C(a):C(b):C(c)", many)


def test_terms_that_others_determine_are_refused_and_columns_left_out():
    table = TABLE.assign(months=12 * AGE, female=1 - MALE, both=AGE + SIZE)
    message = refused("age + months", table)
    assert "'months', determined by the mean and age" in message and "leave these terms out" in message
    assert "'female'" in refused("sex + female", table) and "'both'" in refused("age + `head size` + both", table)
    assert "'age'" in refused("age + sex", others={"age_years": AGE})
    basis, _ = learn_basis("bs(age, df=4) + sex + age:sex", TABLE, {})  # the spline contains the mean slope
    assert [basis.columns[k] for k in basis.kept][-2:] == ["sex[M]", "age:sex[M]"]
    assert basis.notes == ["Left out of the formula, since the other columns determine it: age:sex[F]."]
    matrix = np.column_stack([np.ones(80), basis.values(TABLE)])
    assert np.linalg.matrix_rank(matrix) == matrix.shape[1]
    whole = learn_basis("bs(age, df=4) + sex", TABLE, {})[1]
    full = np.column_stack([np.ones(80), whole, AGE * MALE, AGE * (1 - MALE)])
    residual = full - matrix @ np.linalg.lstsq(matrix, full, rcond=None)[0]
    assert np.abs(residual).max() < 1e-9


def test_new_scans_with_other_values_are_refused_all_together():
    basis, _ = learn_basis("bs(age, df=4) + sex + C(wave) + log(`head size`) + smokes", TABLE, {})
    new = TABLE[:6].astype({"smokes": object, "head size": float}).copy()
    new.loc[0, "age"], new.loc[1, "sex"], new.loc[2, "wave"], new.loc[3, "head size"] = 95.5, "X", 9, 0
    new.loc[4, "age"], new.loc[5, "smokes"] = np.nan, "often"
    with pytest.raises(InputError) as error:
        basis.values(new)
    low, high = AGE.min(), AGE.max()
    for part in ("6 problems", "'s0' (95.5)", f"from {low:.6g} to {high:.6g}, the boundary knots", "'X', of scans 's1'",
                 "some of 'F', 'M'", "'9', of scans 's2'", "some of '1', '2', '3'", "'s3' (0)", "no value for scans 's4'",
                 "'often', of scans 's5'", "--accept"):  # fmt: skip
        assert (part in str(error.value)) == (part != "--accept"), part
    with pytest.raises(InputError, match=r"no column 'sex'"):
        basis.values(TABLE.drop(columns="sex"))
    coded = TABLE.assign(sex=TABLE.sex.map({"F": 0, "M": 1}))
    with pytest.raises(InputError, match="'[01]', '[01]', of scans"):
        basis.values(coded)


@pytest.mark.parametrize("extrapolation", ["clip", "extend"])
def test_splines_extrapolate_only_if_told_to(extrapolation):
    basis, _ = learn_basis(f"bs(age, df=4, extrapolation='{extrapolation}')", TABLE, {})
    at = basis.values(pd.DataFrame({"age": [AGE.max(), AGE.max() + 5]}))
    assert np.isfinite(at).all() and np.array_equal(at[0], at[1]) == (extrapolation == "clip")


def study(formula: str, model: str = "traveling_and_cohort", covariates=(), seed: int = 1):
    spec = replace(load_model(model), formula=formula, covariates=tuple(covariates))
    return build_design(random_study(seed).assign(wave=lambda scans: np.arange(len(scans)) % 3), spec)


def test_a_design_has_the_columns_of_covariates_and_formula():
    design = study("bs(age, df=4) + C(wave)", covariates=["sex"])
    levels = [covariate.level for covariate in design.covariates]
    assert levels == ["sex_M", *(f"bs(age, df=4)[{k}]" for k in (1, 2, 3, 4)), "C(wave)[1]", "C(wave)[2]"]
    is_covariate = design.families == "covariate"
    matrix = design.matrix.toarray()[:, is_covariate]
    np.testing.assert_allclose(matrix.mean(0), 0, atol=EXACT)
    np.testing.assert_allclose([part.std() for part in own_parts(matrix.T)], 1, atol=1e-10)
    (group,) = [group for group in design.effects if group.name == "covariate"]
    assert list(group.levels) == levels
    np.testing.assert_allclose(group.weight, [1 / covariate.unit for covariate in design.covariates])
    plain = study("", covariates=["age", "sex"])
    same = study("sex", covariates=["age"])
    np.testing.assert_array_equal(plain.matrix.toarray(), same.matrix.toarray())
    assert any("C(wave)[1]" in note for note in study("C(wave) + cr(age, df=3) + C(wave):sex").notes) is False
    assert "cr(age, df=3)[1]." in study("cr(age, df=3)").notes[-1]


def prior_of_curve(scans: pd.DataFrame, **options) -> np.ndarray:
    """Conditional prior sds of the effects of independent parts of the covariates, each with sd 1."""
    design = build_design(scans, replace(load_model("traveling_and_cohort"), **options))
    is_covariate = design.families == "covariate"
    r = np.linalg.qr(design.matrix.toarray()[:, is_covariate] / np.sqrt(len(scans)))[1]
    return np.linalg.eigvalsh(np.linalg.inv(design.column_sd[is_covariate] ** 2 * r @ r.T)) ** -0.5


@pytest.mark.parametrize(
    ("low", "high", "options"),
    [
        (20, 80, {"formula": "poly(age, 2, raw=True) + sex"}),
        (20, 80, {"formula": "poly(age, 3, raw=True)"}),
        (45, 80, {"covariates": ("age", "age2", "sex")}),
        (45, 80, {"covariates": ("age",), "formula": "sqrt(age) + age:sex"}),
        (5, 20, {"formula": "bs(age, df=6) * sex"}),
        (5, 20, {"formula": "cr(age, df=6) + poly(score, 3)"}),
        (5, 20, {"covariates": ("age", "nearly")}),
    ],
)
def test_the_prior_leaves_room_for_curves_however_they_are_written(low, high, options):
    """The prior sd of the effect of any part is 3 / sqrt(columns) or more, also given the other parts."""
    scans = random_study(1)
    rng = np.random.default_rng(2)
    age, score = rng.uniform(low, high, len(scans)), rng.normal(size=len(scans))
    scans = scans.assign(age=age, age2=age**2, score=score, nearly=age + score / 50)
    sds = prior_of_curve(scans, **options)
    assert sds.min() >= 3 / np.sqrt(len(sds)) * (1 - 1e-6)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"formula": "poly(year, 2, raw=True)"}, r"poly\(year, 2, raw=True\)\[1\] \(own part 0.000\d sd\)"),
        ({"covariates": ("year", "year2", "age")}, r"got: year \(own part[^)]*\), year2 \(own part[^)]*\)\n"),
        ({"covariates": ("age", "months")}, "got: age .*, months"),
        ({"covariates": ("sex", "gender")}, "got: sex_M .*, gender_m"),
    ],
)
def test_columns_without_a_part_of_their_own_are_refused(options, names):
    scans = random_study(1)
    year = np.random.default_rng(1).uniform(2012, 2022, len(scans))
    scans = scans.assign(year=year, year2=year**2, months=12 * scans.age, gender=scans.sex.str.lower())
    with pytest.raises(InputError, match=rf"almost linear combinations of one another[\s\S]*{names}[\s\S]*poly\(age, 2\)"):
        prior_of_curve(scans, **options)
    assert prior_of_curve(scans, formula="poly(year, 2)").min() > 2.9
    assert prior_of_curve(scans, formula="poly(center(year), 2, raw=True)").min() > 2


@pytest.mark.parametrize(
    ("formula", "covariates", "message"),
    [
        ("age + sex", ["age"], r"'age' is a covariate and in the formula: the same column twice[\s\S]*out of one"),
        ("log(age)", ["age"], None),
        ("bs(age, df=3)", ["age"], None),  # one column of the spline is left out
        ("participant_id", [], "'participant_id' cannot be in the formula"),
        ("C(scanner)", [], "'scanner' cannot be in the formula"),
        ("age:site", [], "'site' cannot be in the formula"),
        ("traveling", [], "'traveling' cannot be in the formula"),
        ("diagnosis", [], r"diagnosis is in the model twice[\s\S]*age \+ age:diagnosis"),
        ("age * diagnosis", [], "diagnosis is in the model twice"),
        ("age + age:diagnosis", [], None),
    ],
)
def test_columns_with_another_use_are_refused(formula, covariates, message):
    if message is None:
        study(formula, covariates=covariates)
        return
    with pytest.raises(InputError, match=message):
        study(formula, covariates=covariates)


def test_products_with_the_diagnosis_count_from_the_mean_so_that_disorder_effects_are_those_at_the_mean():
    scans = random_study(1)
    design = study("age + age:diagnosis")
    columns = design.covariates[0].basis.values(scans)
    from_mean = scans.age - scans.age.mean()
    expected = [scans.age, *(from_mean * (scans.diagnosis == name) for name in sorted(scans.diagnosis.unique())[1:])]
    np.testing.assert_allclose(columns, np.column_stack(expected), atol=EXACT)
    later = design.covariates[0].basis.values(scans[:5].assign(age=scans.age[:5] + 40))
    np.testing.assert_allclose(later[:, 1:] - columns[:5, 1:], 40 * (columns[:5, 1:] != 0), atol=1e-10)  # the mean is frozen


@pytest.mark.parametrize(
    ("formula", "in_model", "centers"),
    [
        ("age:sex", [], {}),
        ("age:sex", [("category", "sex")], {"age:sex": ["age"]}),
        ("age + age:sex", [("number", "sex")], {}),
        ("age + age:C(wave) + C(wave, contr.sum)", [], {"age:C(wave)": ["age"]}),
        ("age + C(age):wave", [], {}),
        ("age*`head size`*sex", [], {"age:head size": ["age", "head size"], "age:sex": ["age"],
                                     "head size:sex": ["head size"], "age:head size:sex": ["age", "head size"]}),
        ("age:sex + `head size`:sex + age:`head size`:sex", [], {"age:head size:sex": ["age"]}),
        ("age + sex + log(age):sex:smokes + sex:smokes", [("number", "log(age)")], {
            "sex:smokes": ["smokes"], "log(age):sex:smokes": ["log(age)"]}),
    ],
)  # fmt: skip
def test_numbers_count_from_the_mean_only_where_the_rest_of_the_product_is_in_the_model(formula, in_model, centers):
    young = TABLE.assign(age=TABLE.age.round(-1)) if "C(age)" in formula else TABLE
    basis, _ = learn_basis(formula, young, {}, in_model)
    assert {term: list(of_term) for term, of_term in basis.centers.items()} == centers


LINES = {"time": True, "sex*time": True, "bs(time, df=4)": True, "poly(time, 2)": True, "time:sex": True,
         "bs(time, df=4):sex": True, "scale(time)": True, "sqrt(time)": False, "age:time": False, "age + age:time": False,
         "bs(time, degree=0, df=3)": False, "age": False, "time + wrong": True, "log(time) + wrong": False,
         }  # fmt: skip


@pytest.mark.parametrize("formula", LINES)
def test_the_mean_slope_is_a_covariate_unless_the_formula_contains_it(formula):
    scans = random_study(2).assign(time=lambda scans: scans.years)
    spec = configure_model("longitudinal", scans, formula=formula)
    assert spec.covariates == (() if LINES[formula] else ("time",))


@pytest.mark.parametrize(
    "formula", ["time + time:diagnosis", "bs(time, df=4) + bs(time, df=4):diagnosis", "C(diagnosis):time"]
)
def test_products_that_are_slopes_of_the_model_are_refused(formula):
    scans = random_study(2).assign(time=lambda scans: scans.years)
    with pytest.raises(InputError, match=r"time and diagnosis is in the model twice[\s\S]*disorder_time"):
        build_design(scans, configure_model("longitudinal", scans, formula=formula))
    build_design(scans, configure_model("longitudinal", scans, formula="sqrt(time) + sqrt(time):diagnosis + age:diagnosis"))
    build_design(scans, configure_model("traveling_and_cohort", scans, formula="time + time:diagnosis"))


def test_the_diagnosis_is_a_covariate_where_the_model_has_no_disorder_effects():
    design = study("diagnosis", "traveling", seed=4)
    assert [covariate.level for covariate in design.covariates] == ["diagnosis[MDD]"]


def test_columns_of_protocol_factors_are_refused():
    scans = random_study(1)
    with pytest.raises(InputError, match="'vendor' cannot be in the formula"):
        spec = configure_model("protocol", scans, protocol=["vendor"], formula="vendor")
        build_design(scans, spec)
    assert covariate_columns(["sex"], "log(age) + sex + diagnosis:age") == ("sex", "age")


def test_a_specification_keeps_the_formula_as_text():
    spec = replace(TRAVELING, formula="age + sex")
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(bayesharm.ModelError, match=r"invalid 'formula'[\s\S]*text"):
        spec_from_dict(TRAVELING.to_dict() | {"formula": ["age"]})
    with pytest.raises(InputError, match=r"not text[\s\S]*a list"):
        bayesharm.check(random_study(1), formula=["age"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of :data:`FORMULA` at scales of its own, saved and opened again; slopes 1, 2, …, and biases."""
    case = by_formula()
    posterior = make_learned(case.part(~case.is_new, "fit"), case.spec)
    folder = tmp_path_factory.mktemp("formula") / "run"
    complete(posterior).save(folder)
    return case, load_posterior(folder)


def test_a_run_keeps_the_columns(run):
    case, posterior = run
    fitted = case.scans[~case.is_new].reset_index(drop=True)
    covariates = covariates_from_dict(posterior.sufficient_statistics.attrs)
    assert covariates == build_design(fitted, case.spec).covariates
    json.dumps(posterior.sufficient_statistics.attrs)
    expected = columns_of(case.scans, ~case.is_new)
    columns = bayesharm.formula_columns(posterior, case.scans[["age", "sex"]])
    assert list(columns) == list(expected) == [str(level) for level in posterior.effect("covariate")["covariate"].values]
    np.testing.assert_allclose(columns, np.column_stack(list(expected.values())), atol=EXACT)
    grid = bayesharm.formula_columns(posterior, pd.DataFrame({"age": [20, 50], "sex": "F"}, index=["young", "old"]))
    assert list(grid.index) == ["young", "old"] and (grid["sex[M]"] == 0).all()
    with pytest.raises(InputError, match=r"The column 'age' is outside[\s\S]*'young' \(90\)[\s\S]*15 to 75"):
        bayesharm.formula_columns(posterior, pd.DataFrame({"age": [90], "sex": "F"}, index=["young"]))
    with pytest.raises(InputError, match="has no formula"):
        bayesharm.formula_columns(make_learned(case.part(~case.is_new, "fit"), replace(case.spec, formula="")), grid)


def test_noise_is_matched_around_the_values_of_the_formula(run):
    """New scans move toward the values that the slopes give them, whatever their ages."""
    case, posterior = run
    known = case.scans[~case.is_new].reset_index(drop=True)
    slopes = posterior.tree["effects/covariate"]["mean"]
    slopes.values[:] = np.arange(slopes.size).reshape(slopes.shape)
    for name in posterior.effect_families:
        posterior.tree[f"effects/{name}"]["mean"].values[:] *= name == "covariate"
    names = ["age", "sex", "scanner", "participant_id"]
    scans = known[names].assign(age=[*np.linspace(16, 74, len(known))], diagnosis="", site=known.site, scan_id=known.scan_id)
    values = np.random.default_rng(0).normal(size=(len(scans), 3))
    dataset = load_dataset(scans, values, check="apply")
    matched, plain = harmonize(posterior, dataset, match_noise=True), harmonize(posterior, dataset)
    columns = np.column_stack(list(columns_of(pd.concat([known, scans]), np.arange(2 * len(known)) < len(known)).values()))
    centered = columns[len(known) :] - columns[: len(known)].mean(0)
    expected = posterior.scales["center"].values + centered @ slopes.values
    scanner = scans.scanner.to_numpy()
    for name in np.unique(scanner):
        rows = scanner == name
        factor = (matched.mean - expected)[rows] / (plain.mean - expected)[rows]
        np.testing.assert_allclose(factor, np.broadcast_to(factor[:1], factor.shape), rtol=1e-7)
    with pytest.raises(InputError, match=r"has missing or infinite values[\s\S]*outside|outside[\s\S]*categories"):
        wrong = scans.assign(age=[80.0, *scans.age[1:]], sex=["X", *scans.sex[1:]])
        harmonize(posterior, load_dataset(wrong, values, check="apply"), match_noise=True)
    with pytest.raises(InputError, match=r"no column 'age', 'sex'|no column 'sex'"):
        harmonize(posterior, load_dataset(scans.drop(columns="sex"), values, check="apply"), match_noise=True)
    harmonize(posterior, load_dataset(scans.drop(columns=["age", "sex"]), values, check="apply"))


def test_yes_and_no_are_numbers_also_among_new_scans():
    case = by_formula()
    scans = case.scans.assign(smokes=np.arange(len(case.scans)) % 3 == 0)
    spec = replace(case.spec, formula="smokes + C(smokes):age")
    predicted = []
    for table in (scans, scans.astype({"smokes": int}), scans.astype({"smokes": "boolean"})):
        fitted = make_learned(load_dataset(table[~case.is_new], case.values[~case.is_new]), spec)
        predicted.append(
            bayesharm.predict(fitted, load_dataset(table[case.is_new], case.values[case.is_new], check="apply"))
        )
    for other in predicted[1:]:
        np.testing.assert_array_equal(other.mean, predicted[0].mean)


@pytest.mark.slow
def test_a_fit_takes_a_formula(tmp_path):
    scans = random_study(1)
    dataset = load_dataset(scans, np.random.default_rng(1).normal(size=(len(scans), 3)))
    posterior = bayesharm.fit(dataset, "traveling", formula="scale(age) + sex", preview=True, out=tmp_path / "run")
    assert list(posterior.effect("covariate")["covariate"].values) == ["scale(age)", "sex[M]"]
    opened = load_posterior(tmp_path / "run")
    assert opened.run["spec"]["formula"] == opened.run["check"]["formula"] == "scale(age) + sex"
    older = scans.assign(participant_id="new " + scans.participant_id, age=scans.age + 1)
    adapted = bayesharm.adapt(opened, load_dataset(older, 1 + dataset.features.read(0, 3), check="apply"))
    for each in (opened, adapted):
        columns = bayesharm.formula_columns(each, older)
        np.testing.assert_array_equal(columns, bayesharm.formula_columns(posterior, older))


def test_methods_that_fail_in_a_fold_are_left_out_of_the_averages():
    folds = [object(), object()]
    assert _in_all_folds({"none": folds, "matched noise": folds[:1]}) == {"none": folds}


def test_the_check_knows_the_formula():
    scans = random_study(1)
    result = bayesharm.check(scans, formula="bs(age, df=4) + sex")
    assert result.formula == "bs(age, df=4) + sex" and result.to_dict()["formula"] == result.formula
    assert "formula='bs(age, df=4) + sex'" in result.verdict.command and not result.is_refused
    assert {"age", "sex"} <= set(result.confounding["of"].str.split().str[0])
    assert {"bs(age, df=4)", "sex"} <= set(result.precision.inflation["by"]) | set(result.precision.inflation["of"])
    assert "as covariates" not in str(result)
    wrong = bayesharm.check(scans, formula="bs(agee, df=4) + sex")
    assert [finding.code for finding in wrong.findings if finding.severity == "error"] == ["fit-refused"]
    assert "Write 'age' if that is meant" in " ".join(str(wrong).split())
    codes = scans.assign(weight=np.where(scans.age > 60, -9999, scans.age))
    found = {finding.code for finding in bayesharm.check(codes, formula="log(weight)").findings}
    assert "missing-code" in found or "fit-refused" in found
    with pytest.raises(InputError, match="calls 'open'"):
        bayesharm.check(scans, formula="open(age)")


def test_the_commands_take_a_formula(tmp_path):
    random_study(1).to_csv(tmp_path / "scans.csv", index=False)
    scans = str(tmp_path / "scans.csv")
    shown = CliRunner().invoke(app, ["check", scans, "--formula", "bs(age, df=4) + sex"])
    assert shown.exit_code == 0 and "--formula" in shown.output and "'bs(age, df=4) + sex'" in shown.output
    for command in ("fit", "evaluate"):
        out = tmp_path / command
        done = CliRunner().invoke(app, [command, scans, "--features", "age", "--formula", "open(sex)", "--out", str(out)])
        assert isinstance(done.exception, InputError) or done.exit_code == 2
        assert not out.exists()


def test_every_function_that_takes_covariates_takes_a_formula():
    scans = random_study(1)
    values = np.random.default_rng(1).normal(size=(len(scans), 3))
    dataset = load_dataset(scans, values)
    for call in (
        lambda formula: bayesharm.fit(dataset, formula=formula),
        lambda formula: bayesharm.check(dataset, formula=formula),
        lambda formula: bayesharm.cross_validate(dataset, ["bayesharm"], formula=formula, preview=True),
        lambda formula: bayesharm.BayesHarmonizer(formula=formula).fit(values, scans=scans),
        lambda formula: configure_model("traveling", dataset, formula=formula),
    ):
        with pytest.raises(InputError, match="calls 'open'"):
            call("open(age)")
    with pytest.raises(InputError, match="determined by the mean and age"):
        bayesharm.cross_validate(dataset, ["none", "bayesharm"], formula="age + scale(age)", preview=True)


def test_formulaic_is_imported_only_where_a_formula_is():
    code = "import sys, bayesharm, bayesharm.cli.app, bayesharm.model.design; sys.exit('formulaic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_formula_of_this_file_is_that_of_the_cases():
    assert by_formula().spec.formula == FORMULA
