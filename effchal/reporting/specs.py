"""The charts, described in Vega-Lite. The page gives the data and draws them.

A text that starts with $ stands for what the reader chose: the page replaces it.
"""

from typing import Any

Spec = dict[str, Any]
NUMBER = "quantitative"
NAME_LIMIT = 170  # pixels of a name at an axis


def specs() -> dict[str, Spec]:
    """Every chart by its name. The data of a chart has the name "table"."""
    return {
        "curves": curves(),
        "costs": costs(),
        "scores": intervals("score", "low", "high", "$metric, mean", None),
        "differences": intervals(
            "difference", "difference_low", "difference_high", "difference to greedy", 0
        ),
        "layers": layers(),
        "mixes": mixes(),
        "plans": plans(),
    }


def chart(**parts: Any) -> Spec:
    return {"data": {"name": "table"}, "width": "container"} | parts


def by_run() -> Spec:
    """Colour by run, with a legend below that picks runs by a click."""
    legend = {"orient": "bottom", "columns": "$columns", "title": "run", "labelLimit": 240}
    return {"field": "run", "type": "nominal", "sort": None, "legend": legend}


def names(field: str) -> Spec:
    """A row for each name; a narrow page breaks names where they have a dot."""
    axis = {"labelLimit": "$limit", "labelExpr": "$label", "labelLineHeight": 14}
    return {"field": field, "type": "nominal", "sort": None, "title": None, "axis": axis}


def by_sign(field: str, title: str | None, signs: dict[str, Any]) -> Spec:
    """A sign for each value of a field, with a legend below."""
    legend = {"orient": "bottom", "columns": "$columns", "title": title}
    scale = {"domain": list(signs), "range": list(signs.values())}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def axis(ticks: int = 7) -> Spec:
    return {"axis": {"format": ",.4~g", "tickCount": ticks}}


def tooltip(*fields: str) -> list[Spec]:
    """Fields of the data by name; ":q" behind a number's."""
    return [
        {"field": name, "type": NUMBER, "format": ",.5~g"} if mark else {"field": name}
        for name, mark in ((field.removesuffix(":q"), field.endswith(":q")) for field in fields)
    ]


def curves() -> Spec:
    """Loss against steps, tokens or hours: training dashed and thin, validation with points."""
    x = {"field": "$x", "type": NUMBER, "title": "$x_title", "scale": {"nice": False}} | axis()
    loss = {"field": "loss", "type": NUMBER, "title": "loss, nats per token"}
    y = loss | {"scale": {"zero": False}} | axis(6)
    shown = tooltip("run", "kind", "step:q", "tokens:q", "hours:q", "loss:q")
    dash = by_sign("kind", "loss", {"training": [3, 3], "validation": [1, 0]})
    thin = {"condition": {"test": "datum.kind == 'training'", "value": 1.2}, "value": 2.4}
    picked = {"name": "picked", "select": {"type": "point", "fields": ["run"]}, "bind": "legend"}
    faint = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    validation = {"filter": "datum.kind == 'validation'"}
    return chart(
        height=300,
        encoding={"x": x, "y": y, "color": by_run(), "opacity": faint},
        layer=[
            {
                "params": [picked],
                "mark": {"type": "line"},
                "encoding": {"strokeDash": dash, "strokeWidth": thin},
            },
            {
                "transform": [validation],
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 45},
                "encoding": {"shape": by_run()},
            },
            {  # where the pointer finds a value
                "mark": {"type": "point", "opacity": 0, "size": 80, "tooltip": True},
                "encoding": {"tooltip": shown, "opacity": {"value": 0}},
            },
        ],
    )


def costs() -> Spec:
    """A measure against hours or memory, with the Pareto front as a line of diamonds."""
    space = {"zero": False, "nice": False, "padding": 24}
    x = {"field": "x", "type": NUMBER, "title": "$cost", "scale": space} | axis()
    y = {"field": "y", "type": NUMBER, "title": "$measure", "scale": space} | axis(5)
    signs = {"on the front": "diamond", "beaten by another run": "circle"}
    best = [{"filter": "datum.front == 'on the front'"}]
    strong = {"condition": {"test": "datum.front == 'on the front'", "value": 1}, "value": 0.45}
    return chart(
        height=280,
        encoding={"x": x, "y": y},
        layer=[
            {"transform": best, "mark": {"type": "line", "strokeDash": [4, 3], "opacity": 0.6}},
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 130},
                "encoding": {
                    "shape": by_sign("front", "Pareto front", signs),
                    "opacity": strong,
                    "tooltip": [
                        *tooltip("run"),
                        {"field": "x", "type": NUMBER, "title": "$cost", "format": ",.4~g"},
                        {"field": "y", "type": NUMBER, "title": "$measure", "format": ",.4~g"},
                        *tooltip("front"),
                    ],
                },
            },
            {
                "transform": best,
                "mark": {"type": "text", "dy": -13, "limit": NAME_LIMIT},
                "encoding": {"text": {"field": "run"}},
            },
        ],
    )


def intervals(value: str, low: str, high: str, title: str, line_at: float | None) -> Spec:
    """A value with its interval for each decoding; controls are hollow."""
    y = names("name")
    scale = {"zero": False, "padding": 12}
    x = {"field": value, "type": NUMBER, "title": title, "scale": scale} | axis()
    role = by_sign("role", None, {"asked for": "circle", "control": "square"})
    colour = {"field": "role", "type": "nominal", "scale": {"domain": ["asked for", "control"]}}
    shown = tooltip(
        "model", "decoding", "role", f"{value}:q", f"{low}:q", f"{high}:q", "instances:q"
    )
    marks: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": x | {"field": low}, "x2": {"field": high}},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1, "size": 80},
            "encoding": {"x": x, "shape": role, "tooltip": shown},
        },
    ]
    if line_at is not None:
        zero = {"data": {"values": [{}]}, "mark": {"type": "rule", "strokeDash": [4, 3]}}
        marks.insert(0, zero | {"encoding": {"x": {"datum": line_at}, "y": None, "color": None}})
    return chart(height={"step": "$step"}, encoding={"y": y, "color": colour}, layer=marks)


def layers() -> Spec:
    """How often each premature layer was chosen, in per cent of the positions."""
    x = {
        "field": "layer",
        "type": "ordinal",
        "sort": {"field": "layer"},
        "title": "premature layer",
    }
    y = names("name")
    share = {"field": "share", "type": NUMBER}
    dark_enough = {"condition": {"test": "datum.share > 0.5", "value": "white"}}
    return chart(
        height={"step": "$step"},
        transform=[{"calculate": "toNumber(datum.layer)", "as": "layer"}],
        encoding={"x": x | {"axis": {"labelAngle": 0}}, "y": y},
        layer=[
            {
                "mark": {"type": "rect"},
                "encoding": {
                    "color": share
                    | {"scale": {"scheme": "$scheme", "domain": [0, 1]}, "legend": None},
                    "tooltip": tooltip("model", "decoding", "layer:q", "positions:q", "share:q"),
                },
            },
            {
                "transform": [{"calculate": "round(100 * datum.share)", "as": "percent"}],
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "text": {"field": "percent"},
                    "color": dark_enough | {"value": "$ink"},
                },
            },
        ],
    )


def mixes() -> Spec:
    """Shares of the sources in each mix, by tokens or by rows."""
    legend = {"orient": "bottom", "columns": "$columns", "title": "source", "labelLimit": 240}
    return chart(
        height={"step": "$step"},
        mark={"type": "bar", "stroke": "$paper", "strokeWidth": 2},
        encoding={
            "y": names("mix"),
            "x": {"field": "$share", "type": NUMBER, "stack": "normalize", "title": "$share_title"}
            | {"axis": {"format": "%"}},
            "color": {"field": "source", "type": "nominal", "sort": None, "legend": legend},
            "tooltip": tooltip("mix", "source", "rows:q", "kept:q", "tokens:q", "$share:q"),
        },
    )


def plans() -> Spec:
    """What came, as a multiple of what was planned."""
    x: Spec = {"field": "ratio", "type": NUMBER, "title": "actual / planned"}
    x |= {"scale": {"zero": False, "padding": 12}}
    x |= axis()
    quantity = {"field": "quantity", "type": "nominal"}
    shown = tooltip("run", "quantity", "planned:q", "actual:q", "ratio:q")
    line = {"data": {"values": [{}]}, "mark": {"type": "rule", "strokeDash": [4, 3]}}
    return chart(
        height={"step": "$step"},
        layer=[
            line | {"encoding": {"x": {"datum": 1}}},
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 90},
                "encoding": {
                    "y": names("run"),
                    "x": x,
                    "color": quantity
                    | {"legend": {"orient": "bottom", "title": None, "columns": "$columns"}},
                    "shape": quantity,
                    "tooltip": shown,
                },
            },
        ],
    )
