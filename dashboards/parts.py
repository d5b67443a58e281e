"""What all dashboards share: variables, selectors, and panels with our defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HOST: Final = 'instance=~"$host"'
AGENT: Final = f'{HOST}, agent=~"$agent"'
SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="$datasource")
RED, YELLOW, GREEN, BLUE = "semi-dark-red", "semi-dark-yellow", "semi-dark-green", "semi-dark-blue"
COLOURS: Final = {"deny": RED, "require_approval": YELLOW, "allow": GREEN}

Query = tuple[str, str]
"""(PromQL, legend)"""

# The console of a host listens on that host only; `$console` is where it can be reached from the reader's browser.
LOG: Final = "${console}/log"


def board(name: str, title: str, text: str, *, agents: bool = True) -> dashboard.Dashboard:
    """A dashboard with the variables that all have."""
    made = (
        dashboard.Dashboard(title)
        .uid(f"agentd-{name}")
        .description(text)
        .tags(["agentd"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("host", "Host", "label_values(agentd_build_info, instance)"))
    )
    if agents:
        query = f"label_values(agentd_workload_processes{{{HOST}}}, agent)"
        made = made.with_variable(_choice("agent", "Agent", query))
    console = dashboard.TextBoxVariable("console").label("Console").default_value("http://127.0.0.1:9470")
    link = dashboard.DashboardLink("agentd").type(model.DashboardLinkType.DASHBOARDS).tags(["agentd"])
    return made.with_variable(console).link(link.as_dropdown(True).include_vars(True).keep_time(True))


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _query(expression: str, legend: str, *, at_once: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expression).legend_format(legend)
    return made.instant() if at_once else made.range()


def number(
    title: str, about: str, expression: str, *, unit: str = "short", steps: Sequence[tuple[float | None, str]] = ()
) -> stat.Panel:
    """One number. steps: from which value on which colour."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .graph_mode(options.BigValueGraphMode.NONE)
        .thresholds(_steps(steps or [(None, BLUE)]))
        .with_target(_query(expression, "", at_once=True))
    )


def _steps(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    made = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def lines(
    title: str, about: str, *queries: Query, unit: str = "short", width: int = 12, stacked: bool = False
) -> timeseries.Panel:
    """Values over time."""
    made = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .fill_opacity(25 if stacked else 8)
        .line_width(1)
        .show_points(options.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    if stacked:
        made = made.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    for expression, legend in queries:
        made = made.with_target(_query(expression, legend, at_once=False))
    for word, colour in COLOURS.items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        made = made.override_by_name(word, [model.DynamicConfigValue(id_val="color", value=fixed)])
    return made


def bars(
    title: str, about: str, expression: str, legend: str, *, unit: str = "short", width: int = 8
) -> bargauge.Panel:
    """One bar for each series, longest first."""
    return (
        bargauge.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .thresholds(_steps([(None, BLUE)]))
        .with_target(_query(f"sort_desc({expression})", legend, at_once=True))
    )


def rows(
    title: str,
    about: str,
    expression: str,
    columns: Sequence[str],
    *,
    value: str = "operations",
    unit: str = "short",
    width: int = 12,
    links: Sequence[tuple[str, str, str]] = (),
) -> table.Panel:
    """A table of labels and a value. links: (column, what it says, URL) of each link to something."""
    order = {name: index for index, name in enumerate((*columns, "Value"))}
    made = (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(9)
        .show_header(True)  # a panel without any option would have none: "options": null
        .with_target(_query(expression, "", at_once=True).format(PromQueryFormat.TABLE))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True, "__name__": True, "job": True},
                    "indexByName": order,
                    "renameByName": {"Value": value},
                },
            )
        )
        .override_by_name(value, [model.DynamicConfigValue(id_val="unit", value=unit)])
    )
    for column, says, url in links:
        link = {"title": says, "url": url, "targetBlank": True}
        made = made.override_by_name(column, [model.DynamicConfigValue(id_val="links", value=[link])])
    return made


def note(title: str, markdown: str, *, width: int = 12, height: int = 4) -> text.Panel:
    """Words."""
    from grafana_foundation_sdk.models.text import TextMode

    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(markdown).span(width).height(height)
