//! Throughput and response times over the number of connections.

use super::{
    PictureError,
    axis::{Axis, label},
    canvas::{Canvas, GRID, INK, Pixel, wrap},
    looks::LOOKS,
    origin,
};
use crate::bench::report::{Report, Row};
use plotters::style::text_anchor::HPos;

const WIDTH: i32 = 1560;
const MARGIN: i32 = 20;
const PANEL_TOP: i32 = 100;
const PANEL_HEIGHT: i32 = 480;
const PANEL_WIDTH: i32 = (WIDTH - 2 * MARGIN) / 3;
const LEGEND_TOP: i32 = PANEL_TOP + PANEL_HEIGHT + 70;
const LEGEND_LINE: i32 = 28;
const LEGEND_COLUMNS: i32 = 3;
const SAMPLE: i32 = 70;

/// Least, median and greatest of a row, as far as they are known.
type Value = fn(&Row) -> Option<[f64; 3]>;

pub(super) fn draw(report: &Report) -> Result<String, PictureError> {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.latency_us.is_some()).collect();
    let mut subjects: Vec<&str> = Vec::new();
    for row in &rows {
        if !subjects.contains(&row.subject.as_str()) {
            subjects.push(&row.subject);
        }
    }
    if subjects.is_empty() {
        return Err(PictureError::Empty);
    }
    if subjects.len() > LOOKS.len() {
        return Err(PictureError::TooMany(subjects.len()));
    }
    let notes: Vec<String> = report.notes.iter().flat_map(|note| wrap(note, 13.0, WIDTH - 2 * MARGIN)).collect();
    let legend_rows = (subjects.len() as i32 + LEGEND_COLUMNS - 1) / LEGEND_COLUMNS;
    let notes_top = LEGEND_TOP + legend_rows * LEGEND_LINE + 20;
    let height = notes_top + notes.len() as i32 * 20 + 10;
    let mut out = String::new();
    {
        let canvas = Canvas::new(&mut out, WIDTH, height)?;
        canvas.bold("Hello-world requests, closed loop: throughput and response time", (MARGIN, 28), 24.0)?;
        for (line, text) in wrap(&origin(report), 14.0, WIDTH - 2 * MARGIN).iter().enumerate() {
            canvas.text(text, (MARGIN, 56 + line as i32 * 18), 14.0, HPos::Left)?;
        }
        let panels: [(&str, Value); 3] = [
            ("requests/s", |row| Some([row.rate.min, row.rate.median, row.rate.max])),
            ("p50 (µs)", |row| row.latency_us.map(|latency| [latency.p50; 3])),
            ("p99 (µs)", |row| row.latency_us.map(|latency| [latency.p99; 3])),
        ];
        for (index, (unit, value)) in panels.into_iter().enumerate() {
            panel(&canvas, MARGIN + index as i32 * PANEL_WIDTH, unit, value, &rows, &subjects)?;
        }
        legend(&canvas, &subjects)?;
        for (index, note) in notes.iter().enumerate() {
            canvas.text(note, (MARGIN, notes_top + index as i32 * 20), 13.0, HPos::Left)?;
        }
        canvas.done()?;
    }
    Ok(out)
}

fn panel(
    canvas: &Canvas<'_>,
    left: i32,
    unit: &str,
    value: Value,
    rows: &[&Row],
    subjects: &[&str],
) -> Result<(), PictureError> {
    let (x_from, x_to) = (left + 78, left + PANEL_WIDTH - 16);
    let (y_from, y_to) = (PANEL_TOP + PANEL_HEIGHT, PANEL_TOP + 16);
    let connections: Vec<f64> = rows.iter().map(|row| f64::from(row.connections)).collect();
    let values: Vec<f64> = rows.iter().filter_map(|row| value(row)).flatten().collect();
    let x = Axis::powers_of_two(&connections, (x_from, x_to));
    let y = Axis::logarithmic(&values, (y_from, y_to));
    for tick in &x.ticks {
        canvas.line((x.at(*tick), y_from), (x.at(*tick), y_to), GRID)?;
        canvas.text(&label(*tick), (x.at(*tick), y_from + 16), 13.0, HPos::Center)?;
    }
    for tick in &y.ticks {
        canvas.line((x_from, y.at(*tick)), (x_to, y.at(*tick)), GRID)?;
        canvas.text(&label(*tick), (x_from - 8, y.at(*tick)), 13.0, HPos::Right)?;
    }
    canvas.line((x_from, y_from), (x_to, y_from), INK)?;
    canvas.line((x_from, y_from), (x_from, y_to), INK)?;
    canvas.text("connections, log scale", (i32::midpoint(x_from, x_to), y_from + 40), 14.0, HPos::Center)?;
    canvas.upright(&format!("{unit}, log scale"), (left + 14, i32::midpoint(y_from, y_to)), 14.0)?;
    for (subject, look) in subjects.iter().zip(&LOOKS) {
        let mut points: Vec<(u32, [f64; 3])> = rows
            .iter()
            .filter(|row| row.subject == *subject)
            .filter_map(|row| Some((row.connections, value(row)?)))
            // A logarithmic axis has no place for zero.
            .filter(|(_, [least, ..])| *least > 0.0)
            .collect();
        points.sort_by_key(|(connections, _)| *connections);
        let at = |(connections, [_, median, _]): &(u32, [f64; 3])| -> Pixel {
            (x.at(f64::from(*connections)), y.at(*median))
        };
        look.line(canvas, &points.iter().map(at).collect::<Vec<_>>())?;
        for point in &points {
            let [least, _, greatest] = point.1;
            look.whisker(canvas, (at(point).0, y.at(least)), y.at(greatest))?;
            look.mark(canvas, at(point))?;
        }
    }
    Ok(())
}

fn legend(canvas: &Canvas<'_>, subjects: &[&str]) -> Result<(), PictureError> {
    let pitch = (WIDTH - 2 * MARGIN) / LEGEND_COLUMNS;
    for (index, (name, look)) in subjects.iter().zip(&LOOKS).enumerate() {
        let left = MARGIN + 20 + index as i32 % LEGEND_COLUMNS * pitch;
        let y = LEGEND_TOP + index as i32 / LEGEND_COLUMNS * LEGEND_LINE;
        look.line(canvas, &[(left, y), (left + SAMPLE, y)])?;
        look.mark(canvas, (left + SAMPLE / 2, y))?;
        canvas.text(name, (left + SAMPLE + 10, y), 14.0, HPos::Left)?;
    }
    Ok(())
}
