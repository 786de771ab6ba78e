//! The results, for people and for programs.
//!
//! In: the figures of each trial. Out: a table for each case with the ratio of the first broker to each other one, and
//! one JSON line for each trial. Medians of the rounds are shown, with the least and the most.

use std::collections::BTreeMap;

use crate::brokers::Kind;
use crate::scenario::{Case, Figures, Scenario};
use crate::table::{align, median, short};

/// Every trial of a case and broker, in the order of the rounds.
pub(crate) type Results = BTreeMap<(Case, usize), Vec<Result<Figures, String>>>;

fn spread(trials: &[Result<Figures, String>], name: &str) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = trials.iter().flatten().filter_map(|figures| figures.get(name).copied()).collect();
    let middle = median(&mut values)?;
    Some((middle, *values.first()?, *values.last()?))
}

fn sum(trials: &[Result<Figures, String>], name: &str) -> f64 {
    trials.iter().flatten().filter_map(|figures| figures.get(name)).sum()
}

/// A column: title, figure, whether the least and the most are shown too, and what a ratio to it is called, if any.
struct Column {
    title: &'static str,
    figure: &'static str,
    range: bool,
    ratio: bool,
}

const fn column(title: &'static str, figure: &'static str) -> Column {
    Column { title, figure, range: false, ratio: false }
}

const fn main_column(title: &'static str, figure: &'static str) -> Column {
    Column { title, figure, range: true, ratio: true }
}

const fn compared(title: &'static str, figure: &'static str) -> Column {
    Column { title, figure, range: false, ratio: true }
}

fn columns(scenario: Scenario) -> Vec<Column> {
    match scenario {
        Scenario::Pairs | Scenario::FanOut | Scenario::FanIn => vec![
            main_column("msg/s", "per_second"),
            compared("broker µs/msg", "broker_cpu_us"),
            column("driver µs/msg", "driver_cpu_us"),
            column("driver busy", "driver_busy"),
        ],
        Scenario::Latency => vec![
            compared("p50 µs", "p50_us"),
            main_column("p99 µs", "p99_us"),
            compared("p99.9 µs", "p999_us"),
            column("max µs", "max_us"),
            compared("broker µs/msg", "broker_cpu_us"),
            column("late p99 µs", "lateness_p99_us"),
        ],
        Scenario::Storm => vec![
            main_column("conn/s", "per_second"),
            compared("broker µs/conn", "broker_cpu_us"),
            column("driver µs/conn", "driver_cpu_us"),
            column("driver busy", "driver_busy"),
            column("p50 µs", "p50_us"),
            column("p99 µs", "p99_us"),
        ],
        Scenario::Idle => vec![
            main_column("bytes/conn", "bytes_per_connection"),
            column("RSS", "resident_after"),
            column("broker µs/conn", "broker_cpu_us"),
        ],
    }
}

/// What must be zero, and is shown when it is not.
const FAULTS: [(&str, &str); 9] = [
    ("lost", "lost"),
    ("duplicates", "duplicates"),
    ("reordered", "out of order"),
    ("unacknowledged", "never acknowledged"),
    ("protocol_errors", "protocol errors"),
    ("closed", "connections cut"),
    ("refused", "refused"),
    ("failed", "failed"),
    ("given_up", "waits given up"),
];

/// Whether anything went wrong in these trials.
pub(crate) fn faulty(trials: &[Result<Figures, String>]) -> bool {
    trials.iter().any(Result::is_err) || FAULTS.iter().any(|(figure, _)| sum(trials, figure) > 0.0)
}

/// The table of one case.
pub(crate) fn table(case: Case, brokers: &[Kind], results: &Results) -> String {
    let columns = columns(case.scenario);
    let qos = if case.scenario.has_qos() { format!(", QoS {}", case.qos) } else { String::new() };
    let mut rows = vec![vec![format!("{}{qos}, {}", case.scenario.name(), case.transport.name())]];
    let head = &mut rows[0];
    for column in &columns {
        head.push(column.title.to_owned());
        if column.ratio && brokers.len() > 1 {
            head.push("ratio".to_owned());
        }
    }
    head.push("faults".to_owned());
    for (position, broker) in brokers.iter().enumerate() {
        let Some(trials) = results.get(&(case, position)) else { continue };
        let mut row = vec![broker.name().to_owned()];
        for column in &columns {
            let own = spread(trials, column.figure);
            row.push(match own {
                None => "-".to_owned(),
                Some((middle, least, most)) if column.range && trials.len() > 1 => {
                    format!("{} ({}..{})", short(middle), short(least), short(most))
                }
                Some((middle, ..)) => short(middle),
            });
            if column.ratio && brokers.len() > 1 {
                let first = results.get(&(case, 0)).and_then(|trials| spread(trials, column.figure));
                row.push(match (first, own) {
                    _ if position == 0 => String::new(),
                    (Some((first, ..)), Some((own, ..))) if own != 0.0 => format!("{:.2}", first / own),
                    _ => "-".to_owned(),
                });
            }
        }
        let mut faults: Vec<String> = FAULTS
            .iter()
            .filter_map(|(figure, words)| {
                let count = sum(trials, figure);
                (count > 0.0).then(|| format!("{} {words}", short(count)))
            })
            .collect();
        faults.extend(trials.iter().filter_map(|trial| trial.as_ref().err().cloned()));
        row.push(if faults.is_empty() { "none".to_owned() } else { faults.join("; ") });
        rows.push(row);
    }
    align(&rows)
}
