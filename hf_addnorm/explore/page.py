"""The page of `hf-addnorm explore`, drawn by Streamlit, which runs this file at each change of an input."""

import pandas as pd
import streamlit as st

from hf_addnorm.explore.curves import can_train, smooth, train
from hf_addnorm.explore.looks import Look, Scheme, choices, entry, preset_names, scheme
from hf_addnorm.hub.description import families
from hf_addnorm.models.base.protocols import JsonValue


AS_PRESET = "as in the preset"


@st.cache_data(show_spinner=False)
def _scheme(family: str, add_norm: JsonValue) -> Scheme:
    return scheme(family, add_norm)


def _chosen() -> tuple[str, JsonValue]:
    """The family and the entry `add_norm`, from the inputs."""
    with st.sidebar:
        names = list(families())
        family = st.selectbox("Family", names, index=names.index("bert"))
        preset = st.selectbox("Preset", preset_names())
        st.caption("Axes that differ from the preset:")
        changes: dict[str, JsonValue] = {}
        for axis, parts in choices().items():
            picked = st.selectbox(axis.capitalize(), [AS_PRESET, *parts], key=axis)
            if picked != AS_PRESET:
                changes[axis] = picked
                st.caption(parts[picked].summary.replace("``", "`"))
    return family, entry(preset, changes)


def _show(look: Look) -> None:
    if look.title:
        st.subheader(look.title.capitalize())
    st.markdown("**Data flow of a sublayer**")
    st.code(look.flow, language=None)
    st.markdown("**Formula**")
    st.code(look.formula, language=None, wrap_lines=True)
    st.caption(f"x is the stream, F attention or feed-forward, N {look.norm}, l the layer from 1, L the depth.")
    for warning in look.warnings:
        st.warning(f"Unusual: {warning}")
    for sentence in look.explained:
        st.markdown(f"- {sentence}")
    st.table(pd.DataFrame(look.places, columns=["place", "norm"]).set_index("place"))
    if look.sources:
        st.caption("Source: " + "; ".join(look.sources))


def _curve(family: str, made: Scheme) -> None:
    st.markdown("**Train for a minute**")
    if made.config is None or not can_train(made.config):
        st.caption("The built-in task is one of texts, which this family does not read alone.")
        return
    st.caption(
        "Built-in task: are words of one kind in the majority? Small models of the scheme and of the stock one, the "
        "same data, one seed. It shows how a scheme starts, not how good it is on real texts."
    )
    layers = st.slider("Layers", 2, 24, 6, step=2)
    steps = st.slider("Steps", 50, 400, 150, step=50)
    rate = st.select_slider("Learning rate", [1e-4, 3e-4, 1e-3, 3e-3], value=1e-3)
    if st.button("Train", type="primary"):
        stock = scheme(family, None, with_cost=False)
        both = {"stock": stock.config, "this scheme": made.config}
        done: dict[str, list[float]] = {}
        place, bar = st.empty(), st.progress(0.0)
        for at, (name, config) in enumerate(both.items()):
            points = []
            for point in train(config, layers, steps, rate):  # type: ignore[arg-type]
                points.append(point)
                if point.step % 10 == 0 or point.step == steps:
                    done[name] = smooth(points)
                    bar.progress((at + point.step / steps) / len(both))
                    lines = pd.DataFrame({key: pd.Series(losses) for key, losses in done.items()})
                    place.line_chart(lines, x_label="step", y_label="loss (mean of 10 steps)")
        last = ", ".join(f"{name} {losses[-1]:.3f}" for name, losses in done.items())
        st.markdown(f"Loss at the end: {last}. A guess has 0.693.")


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="hf_addnorm: explore", layout="centered")
    st.title("Explore add & norm")
    family, add_norm = _chosen()
    made = _scheme(family, add_norm)
    if made.refusal:
        st.error(f"Refused: {made.refusal}")
        return
    for look in made.looks:
        _show(look)
    st.markdown("**Cost beside stock** (the base model at its default sizes, counted)")
    st.table(pd.DataFrame(made.costs, columns=["counted", "here", "stock", "difference"]).set_index("counted"))
    st.markdown("**To copy**")
    st.code(made.code, language="python")
    _curve(family, made)


main()
