//! A bar for every row, by unit and work.

use super::{
    PictureError,
    axis::{Axis, label, tidy},
    canvas::{Canvas, GRID, INK, wrap},
    origin,
};
use crate::bench::{
    e2e::RAW,
    report::{Report, Row, Unit},
};
use plotters::{prelude::RGBColor, style::text_anchor::HPos};

const WIDTH: i32 = 1280;
const MARGIN: i32 = 20;
const NAMES: i32 = 300;
const VALUES: i32 = 300;
const BAR: i32 = 22;
const HEADING: i32 = 30;
const TOP: i32 = 86;

/// Of subjects, from dark to light; their names stand beside the bars.
const FILLS: [RGBColor; 4] =
    [RGBColor(40, 70, 110), RGBColor(140, 170, 205), RGBColor(225, 225, 225), RGBColor(175, 135, 80)];

/// What was done, and the rows of those who did it.
type Work<'a> = (String, Vec<&'a Row>);

pub(super) fn draw(report: &Report) -> Result<String, PictureError> {
    let units: Vec<(Unit, Vec<Work<'_>>)> = [Unit::Gigabits, Unit::Requests, Unit::Connections]
        .into_iter()
        .map(|unit| (unit, works(report, unit)))
        .filter(|(_, works)| !works.is_empty())
        .collect();
    let mut subjects: Vec<&str> = Vec::new();
    for row in report.rows.iter().filter(|row| row.subject != RAW) {
        if !subjects.contains(&row.subject.as_str()) {
            subjects.push(&row.subject);
        }
    }
    let verdicts: Vec<String> = report
        .verdicts
        .iter()
        .map(|verdict| format!("{}: {}", verdict.about(), verdict.text))
        .chain(report.notes.iter().cloned())
        .flat_map(|text| wrap(&text, 13.0, WIDTH - 2 * MARGIN))
        .collect();
    let of_works = |works: &[Work<'_>]| -> i32 {
        works.iter().map(|(_, rows)| HEADING + rows.len() as i32 * BAR).sum::<i32>() + 70
    };
    let bars: i32 = units.iter().map(|(_, works)| of_works(works)).sum();
    let height = TOP + bars + verdicts.len() as i32 * 20 + 20;
    let mut out = String::new();
    {
        let canvas = Canvas::new(&mut out, WIDTH, height)?;
        canvas.bold(&format!("nitrotap bench {}", report.bench), (MARGIN, 28), 24.0)?;
        for (line, text) in wrap(&origin(report), 13.0, WIDTH - 2 * MARGIN).iter().enumerate() {
            canvas.text(text, (MARGIN, 54 + line as i32 * 18), 13.0, HPos::Left)?;
        }
        let mut y = TOP;
        for (unit, works) in &units {
            panel(&canvas, y, *unit, works, &subjects)?;
            y += of_works(works);
        }
        for (index, text) in verdicts.iter().enumerate() {
            canvas.text(text, (MARGIN, y + index as i32 * 20), 13.0, HPos::Left)?;
        }
        canvas.done()?;
    }
    Ok(out)
}

/// Rows of one unit by what they did, in their order.
fn works(report: &Report, unit: Unit) -> Vec<Work<'_>> {
    let mut works: Vec<Work<'_>> = Vec::new();
    // The ceiling would push all else to the axis; the notes have it.
    for row in report.rows.iter().filter(|row| row.unit == unit && row.subject != RAW) {
        let mtu = row.mtu_bytes.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
        let name = format!("{} x {}{mtu}", row.connections, row.work);
        match works.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rows)) => rows.push(row),
            None => works.push((name, vec![row])),
        }
    }
    works
}

fn panel(canvas: &Canvas<'_>, top: i32, unit: Unit, works: &[Work<'_>], subjects: &[&str]) -> Result<(), PictureError> {
    let (from, to) = (MARGIN + NAMES, WIDTH - MARGIN - VALUES);
    let all = || works.iter().flat_map(|(_, rows)| rows);
    let values: Vec<f64> = all().map(|row| row.rate.max).collect();
    let x = Axis::from_zero(&values, (from, to));
    let bottom = top + works.iter().map(|(_, rows)| HEADING + rows.len() as i32 * BAR).sum::<i32>() + 6;
    for tick in &x.ticks {
        canvas.line((x.at(*tick), top), (x.at(*tick), bottom), GRID)?;
        canvas.text(&label(*tick), (x.at(*tick), bottom + 14), 13.0, HPos::Center)?;
    }
    let mut y = top;
    for (name, rows) in works {
        canvas.bold(name, (MARGIN, y + HEADING / 2 + 3), 14.0)?;
        y += HEADING;
        for row in rows {
            let middle = y + BAR / 2;
            let place = subjects.iter().position(|subject| *subject == row.subject).unwrap_or(0);
            canvas.text(&row.subject, (from - 8, middle), 13.0, HPos::Right)?;
            canvas.bar((from, y + 3), (x.at(row.rate.median), y + BAR - 3), FILLS[place % FILLS.len()])?;
            let (least, greatest) = (x.at(row.rate.min), x.at(row.rate.max));
            canvas.line((least, middle), (greatest, middle), INK)?;
            for end in [least, greatest] {
                canvas.line((end, middle - 4), (end, middle + 4), INK)?;
            }
            canvas.text(&beside(row), (greatest.max(x.at(row.rate.median)) + 8, middle), 12.0, HPos::Left)?;
            y += BAR;
        }
    }
    canvas.line((from, bottom), (to, bottom), INK)?;
    canvas.line((from, top), (from, bottom), INK)?;
    canvas.text(unit.rate(), (i32::midpoint(from, to), bottom + 36), 14.0, HPos::Center)
}

/// The value, and who spends what on it.
fn beside(row: &Row) -> String {
    let mut text = label(row.rate.median);
    let costs: Vec<String> = row
        .processors
        .iter()
        .filter(|time| ["tap handler", "gateway", "proxy"].contains(&time.role.as_str()))
        .map(|time| format!("{} {}", time.role, tidy(time.cost.median)))
        .collect();
    if !costs.is_empty() {
        text.push_str(&format!(" ({} {})", costs.join(", "), row.unit.per()));
    }
    text
}
