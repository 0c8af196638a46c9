//! The figure as an SVG picture: throughput and median response time over the number of connections.
//!
//! All axes are logarithmic, since scenarios differ by powers of ten: equal distances are equal ratios. A scenario is
//! told by its dashes, its marker and the lightness of its colour at once ([`LOOKS`]), so that the picture survives a
//! black and white printer. There is no font library: text has the reader's sans-serif font, its width is estimated.
//!
//! A function of the figure alone. Bounds: [`MAX_SCENARIOS`].

use super::table::{Figure, Point};
use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    },
    drawing::DrawingAreaErrorKind,
    prelude::{
        ChartBuilder, Circle, DrawingArea, IntoDrawingArea, PathElement, Polygon, RGBColor, SVGBackend, ShapeStyle,
        WHITE,
    },
    style::{
        Color, FontDesc, FontFamily, FontStyle, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};
use std::{io, ops::Range};

/// Scenarios that can still be told apart in one picture.
pub const MAX_SCENARIOS: usize = LOOKS.len();

/// Why a figure has no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// No point has a value above zero, which is all that a logarithmic axis can show.
    #[error("the figure has no point to draw: it needs one with connections and requests/s or p50 above zero")]
    NoPoints,
    /// More scenarios than can be told apart.
    #[error(
        "the figure has {count} scenarios, but at most {MAX_SCENARIOS} can be told apart: draw them in two pictures"
    )]
    TooManyScenarios {
        /// Scenarios of the figure.
        count: usize,
    },
    /// The SVG writer failed.
    #[error("the picture could not be drawn: {0}")]
    Draw(#[from] DrawingAreaErrorKind<io::Error>),
}

/// Draws the figure as an SVG document.
///
/// A value that a logarithmic axis cannot show (zero, or no number) is left out like a missing point: without a marker,
/// and the line leads on to the next one.
///
/// # Errors
///
/// If there is nothing to draw, or too much to be told apart.
pub fn svg(figure: &Figure) -> Result<String, PictureError> {
    let scenarios = figure.scenarios();
    if scenarios.len() > MAX_SCENARIOS {
        return Err(PictureError::TooManyScenarios { count: scenarios.len() });
    }
    let panels = [
        Panel { title: "Throughput", unit: "requests/s", value: |point| point.requests_per_s },
        Panel { title: "Median response time", unit: "p50 (µs)", value: |point| point.p50_us },
    ];
    if panels.iter().all(|panel| panel.drawable(figure).next().is_none()) {
        return Err(PictureError::NoPoints);
    }
    let legend = Legend::of(&scenarios);
    let mut out = String::new();
    {
        let root = SVGBackend::with_string(&mut out, (WIDTH as u32, legend.bottom() as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        captions(&root, figure)?;
        let axis = Axis::of_connections(figure);
        let width = (WIDTH - 2 * MARGIN) / 2;
        for (panel, left) in panels.iter().zip([MARGIN, MARGIN + width]) {
            panel.draw(&root, left, width, &axis, figure, &scenarios)?;
        }
        legend.draw(&root, &scenarios)?;
        root.present()?;
    }
    Ok(out)
}

fn captions(root: &Area<'_>, figure: &Figure) -> Result<(), PictureError> {
    let failed: u64 = figure.points.iter().map(|point| point.errors).sum();
    let mut origin = format!(
        "simulated with parameters {}, hash {}, seed {}",
        figure.parameters, figure.parameters_hash, figure.seed
    );
    if failed > 0 {
        origin.push_str(&format!("; {failed} requests failed"));
    }
    for (text, largest, bold, y) in [(figure.heading(), 26.0, true, 30), (origin, 15.0, false, 60)] {
        // A long text gets a smaller font rather than losing its end.
        let px = f64::min(largest, f64::from(WIDTH - 2 * MARGIN) / text_width(&text, 1.0));
        let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
        root.draw_text(&text, &font(px, style).pos(Pos::new(HPos::Left, VPos::Center)), (MARGIN, y))?;
    }
    Ok(())
}

/// One value of every point over the connections.
struct Panel {
    title: &'static str,
    unit: &'static str,
    value: fn(&Point) -> f64,
}

impl Panel {
    /// The points that have a place on the axes, with their value.
    fn drawable<'a>(&self, figure: &'a Figure) -> impl Iterator<Item = (&'a Point, f64)> {
        let value = self.value;
        let with_value = figure.points.iter().map(move |point| (point, value(point)));
        with_value.filter(|(point, value)| point.connections > 0 && value.is_finite() && *value > 0.0)
    }

    fn draw(
        &self,
        root: &Area<'_>,
        left: i32,
        width: i32,
        x: &Axis,
        figure: &Figure,
        scenarios: &[&str],
    ) -> Result<(), PictureError> {
        let y = Axis::of_values(self.drawable(figure).map(|(_, value)| value));
        let area = root.clone().shrink((left, PANEL_TOP), (width, PANEL_HEIGHT));
        let mut chart = ChartBuilder::on(&area)
            .margin_top(34)
            .margin_right(20)
            .x_label_area_size(52)
            .y_label_area_size(76)
            .build_cartesian_2d(x.clone(), y)?;
        chart
            .configure_mesh()
            .bold_line_style(RGBColor(222, 222, 222))
            .axis_style(RGBColor(60, 60, 60))
            .label_style(font(14.0, FontStyle::Normal))
            .axis_desc_style(font(15.0, FontStyle::Normal))
            .x_desc("connections, log scale")
            .y_desc(format!("{}, log scale", self.unit))
            .draw()?;
        let title = font(17.0, FontStyle::Bold).pos(Pos::new(HPos::Left, VPos::Center));
        root.draw_text(self.title, &title, (left + 76, PANEL_TOP + 16))?;

        for (scenario, look) in scenarios.iter().zip(&LOOKS) {
            let mut points: Vec<(&Point, f64)> =
                self.drawable(figure).filter(|(point, _)| point.scenario == *scenario).collect();
            points.sort_by_key(|(point, _)| point.connections);
            let path: Vec<Pixel> =
                points.iter().map(|(point, value)| chart.backend_coord(&(point.connections.into(), *value))).collect();
            look.draw(root, &path, &path)?;
        }
        Ok(())
    }
}

/// A logarithmic axis with labelled ticks.
#[derive(Clone)]
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// Powers of two around the figure's numbers of connections.
    fn of_connections(figure: &Figure) -> Self {
        let connections = figure.points.iter().map(|point| point.connections).filter(|connections| *connections > 0);
        let (low, high) = range(connections.map(|connections| f64::from(connections).log2()));
        let (low, high) = (low.floor() as i32, high.ceil() as i32);
        let ticks = (low..=high).map(|power| 2_f64.powi(power)).collect();
        // Room beside the outermost markers.
        Self { low: (f64::from(low) - 0.3).exp2(), high: (f64::from(high) + 0.3).exp2(), ticks }
    }

    /// Steps of 1, 2 and 5, or powers of ten should those be too many, from below the least to above the greatest.
    fn of_values(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = range(values.map(f64::log10));
        let steps = |digits: &[f64]| -> Vec<f64> {
            let all: Vec<f64> = (low.floor() as i32..=high.floor() as i32 + 1)
                .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
                .collect();
            let first = all.iter().rposition(|value| value.log10() <= low).unwrap_or(0);
            let last = all.iter().position(|value| value.log10() >= high).unwrap_or(all.len() - 1).max(first + 1);
            all[first..=last].to_vec()
        };
        let mut ticks = steps(&[1.0, 2.0, 5.0]);
        if ticks.len() > MAX_TICKS {
            ticks = steps(&[1.0]);
        }
        let (low, high) = range(ticks.iter().copied());
        Self { low, high, ticks }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // The mesh asks twice, for bold lines with labels and for light ones between them; here are none between.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        if *value >= 1e6 {
            format!("{}M", value / 1e6)
        } else if *value >= 1e4 {
            format!("{}k", value / 1e3)
        } else {
            value.to_string()
        }
    }
}

/// Least and greatest; both zero if there is none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .fold(None, |seen: Option<(f64, f64)>, value| {
            seen.map_or(Some((value, value)), |(low, high)| Some((low.min(value), high.max(value))))
        })
        .unwrap_or((0.0, 0.0))
}

/// Below the panels: a sample of each scenario's line with its name, row by row.
struct Legend {
    columns: usize,
    rows: usize,
}

impl Legend {
    fn of(scenarios: &[&str]) -> Self {
        let widest = scenarios.iter().map(|name| text_width(name, LEGEND_PX)).fold(1.0, f64::max);
        let entry = f64::from(SAMPLE + 40) + widest;
        let columns = ((f64::from(WIDTH - 2 * MARGIN) / entry) as usize).clamp(1, 5);
        let rows = scenarios.len().div_ceil(columns);
        // As few columns as the rows need, so that the last row is not nearly empty.
        Self { columns: scenarios.len().div_ceil(rows.max(1)).max(1), rows }
    }

    fn bottom(&self) -> i32 {
        LEGEND_TOP + self.rows as i32 * LEGEND_LINE + 14
    }

    fn draw(&self, root: &Area<'_>, scenarios: &[&str]) -> Result<(), PictureError> {
        let left_most = MARGIN + 30;
        let pitch = (WIDTH - MARGIN - left_most) / self.columns as i32;
        let name_style = font(LEGEND_PX, FontStyle::Normal).pos(Pos::new(HPos::Left, VPos::Center));
        for (i, (name, look)) in scenarios.iter().zip(&LOOKS).enumerate() {
            let left = left_most + (i % self.columns) as i32 * pitch;
            let y = LEGEND_TOP + (i / self.columns) as i32 * LEGEND_LINE + LEGEND_LINE / 2;
            look.draw(root, &[(left, y), (left + SAMPLE, y)], &[(left + SAMPLE / 2, y)])?;
            root.draw_text(name, &name_style, (left + SAMPLE + 10, y))?;
        }
        Ok(())
    }
}

/// How one scenario looks.
struct Look {
    colour: RGBColor,
    /// Inked and blank lengths in turn, in pixels; empty for a solid line.
    dashes: &'static [f64],
    marker: Marker,
    /// A hollow marker is white inside.
    filled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    Circle,
    Square,
    Up,
    Down,
    Diamond,
    Cross,
    Plus,
}

impl Look {
    /// Draws the line along `path` and a marker at each of `marks`.
    fn draw(&self, root: &Area<'_>, path: &[Pixel], marks: &[Pixel]) -> Result<(), PictureError> {
        for piece in dash(path, self.dashes) {
            root.draw(&PathElement::new(piece, self.stroke()))?;
        }
        for mark in marks {
            self.draw_marker(root, *mark)?;
        }
        Ok(())
    }

    fn draw_marker(&self, root: &Area<'_>, (x, y): Pixel) -> Result<(), PictureError> {
        let at = |corners: &[Pixel]| -> Vec<Pixel> { corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect() };
        let outline: &[Pixel] = match self.marker {
            Marker::Circle => {
                root.draw(&Circle::new((x, y), 5, self.inside()))?;
                root.draw(&Circle::new((x, y), 5, self.stroke()))?;
                return Ok(());
            }
            Marker::Cross | Marker::Plus => {
                let strokes: [[Pixel; 2]; 2] = if self.marker == Marker::Plus {
                    [[(-7, 0), (7, 0)], [(0, -7), (0, 7)]]
                } else {
                    [[(-5, -5), (5, 5)], [(-5, 5), (5, -5)]]
                };
                for stroke in strokes {
                    root.draw(&PathElement::new(at(&stroke), self.stroke().stroke_width(3)))?;
                }
                return Ok(());
            }
            Marker::Square => &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
            Marker::Up => &[(0, -7), (6, 5), (-6, 5)],
            Marker::Down => &[(0, 7), (6, -5), (-6, -5)],
            Marker::Diamond => &[(0, -7), (7, 0), (0, 7), (-7, 0)],
        };
        root.draw(&Polygon::new(at(outline), self.inside()))?;
        // Once around and over the first side again: that joins the last corner, too.
        let around: Vec<Pixel> = outline.iter().cycle().take(outline.len() + 2).copied().collect();
        root.draw(&PathElement::new(at(&around), self.stroke()))?;
        Ok(())
    }

    fn stroke(&self) -> ShapeStyle {
        self.colour.stroke_width(2)
    }

    fn inside(&self) -> ShapeStyle {
        if self.filled { self.colour.filled() } else { WHITE.filled() }
    }
}

/// Cuts a path into its inked pieces; SVG could do this itself, but plotters has no word for it.
fn dash(path: &[Pixel], dashes: &[f64]) -> Vec<Vec<Pixel>> {
    let Some(first) = path.first() else { return Vec::new() };
    if dashes.is_empty() {
        return vec![path.to_vec()];
    }
    let mut lengths = dashes.iter().copied().cycle();
    let mut next_length = || lengths.next().unwrap_or(f64::INFINITY);
    let mut left = next_length();
    let mut inked = true;
    let mut piece = vec![*first];
    let mut pieces = Vec::new();
    for (from, to) in path.iter().zip(&path[1..]) {
        let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
        let length = dx.hypot(dy);
        let mut done = 0.0;
        while left < length - done {
            done += left;
            let share = done / length;
            piece.push((from.0 + (dx * share).round() as i32, from.1 + (dy * share).round() as i32));
            let end = piece.split_off(piece.len() - 1);
            if inked {
                piece.extend(&end);
                pieces.push(piece);
            }
            piece = end;
            inked = !inked;
            left = next_length();
        }
        left -= length - done;
        if inked {
            piece.push(*to);
        }
    }
    if inked && piece.len() > 1 {
        pieces.push(piece);
    }
    pieces
}

/// Estimated width of a text, in pixels, for a font of `px` pixels: that of DejaVu Sans Bold, which is a wide one.
fn text_width(text: &str, px: f64) -> f64 {
    text.chars().count() as f64 * px * 0.66
}

fn font(px: f64, style: FontStyle) -> TextStyle<'static> {
    // The SVG writer divides sizes by this factor.
    FontDesc::new(FontFamily::SansSerif, px * 1.24, style).color(&RGBColor(20, 20, 20))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Pixel = (i32, i32);

/// In the order of scenarios. Neighbours differ in lightness; no two have the same dashes or the same marker.
const LOOKS: [Look; 12] = [
    look(0x000000, &[], Marker::Circle, true),
    look(0x0060a8, &[12.0, 5.0], Marker::Square, false),
    look(0xd55e00, &[3.0, 4.0], Marker::Up, true),
    look(0x00402f, &[14.0, 4.0, 3.0, 4.0], Marker::Diamond, false),
    look(0x8a8a8a, &[24.0, 6.0], Marker::Cross, true),
    look(0x6a1b6d, &[6.0, 4.0], Marker::Down, false),
    look(0x009e73, &[14.0, 4.0, 3.0, 4.0, 3.0, 4.0], Marker::Square, true),
    look(0x4d4d4d, &[4.0, 9.0], Marker::Plus, true),
    look(0x4a86d8, &[24.0, 5.0, 6.0, 5.0], Marker::Circle, false),
    look(0x7a0019, &[9.0, 9.0], Marker::Diamond, true),
    look(0x9a7a10, &[3.0, 3.0, 3.0, 9.0], Marker::Up, false),
    look(0x1b2a55, &[24.0, 4.0, 3.0, 4.0, 3.0, 4.0], Marker::Down, true),
];

const fn look(rgb: u32, dashes: &'static [f64], marker: Marker, filled: bool) -> Look {
    let [_, red, green, blue] = rgb.to_be_bytes();
    Look { colour: RGBColor(red, green, blue), dashes, marker, filled }
}

/// Layout, in pixels.
const WIDTH: i32 = 1280;
const MARGIN: i32 = 20;
const PANEL_TOP: i32 = 80;
const PANEL_HEIGHT: i32 = 520;
const LEGEND_TOP: i32 = PANEL_TOP + PANEL_HEIGHT + 12;
const LEGEND_LINE: i32 = 28;
const LEGEND_PX: f64 = 15.0;
const SAMPLE: i32 = 70;

/// Labels that fit beside a panel.
const MAX_TICKS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_picture_names_units_scenarios_and_where_it_comes_from() {
        let figure = figure(9);
        let svg = svg(&figure).unwrap();
        for text in ["requests/s, log scale", "p50 (µs), log scale", "connections, log scale", "1024", "20k"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        for text in ["Hello world (simulated)", "parameters lab.toml, hash 3f2a91, seed 7"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(!svg.contains("failed"));
        for scenario in figure.scenarios() {
            assert!(svg.contains(&format!("\n{scenario}\n")), "{scenario} is missing");
        }
    }

    #[test]
    fn a_picture_is_the_same_every_time() {
        assert_eq!(svg(&figure(12)).unwrap(), svg(&figure(12)).unwrap());
    }

    #[test]
    fn a_picture_is_one_document_with_its_text_escaped() {
        let mut figure = figure(2);
        figure.title = "a < b & \"simulated\"".to_owned();
        let svg = svg(&figure).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b &amp; &quot;simulated&quot;"));
        assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
    }

    #[test]
    fn a_title_that_does_not_say_simulated_is_completed_and_failures_are_told() {
        let mut figure = figure(1);
        figure.title = "Hello world".to_owned();
        figure.points[0].errors = 5;
        let svg = svg(&figure).unwrap();
        assert!(svg.contains("Hello world (simulated)"));
        assert!(svg.contains("5 requests failed"));
    }

    #[test]
    fn one_single_point_is_drawn() {
        let mut figure = figure(1);
        figure.points.truncate(1);
        let svg = svg(&figure).unwrap();
        // Twice the inside and the outline in the panels, once in the legend.
        assert_eq!(svg.matches("<circle ").count(), 6);
    }

    #[test]
    fn missing_points_and_values_without_a_place_on_the_axes_are_left_out() {
        let mut figure = figure(1);
        let markers = |figure: &Figure| svg(figure).unwrap().matches("<circle ").count();
        let all = markers(&figure);
        figure.points.remove(3);
        assert_eq!(markers(&figure), all - 4);
        figure.points[4].requests_per_s = 0.0;
        figure.points[5].p50_us = f64::NAN;
        figure.points[6].connections = 0;
        assert_eq!(markers(&figure), all - 4 - 2 - 2 - 4);
    }

    #[test]
    fn nothing_to_draw_and_too_much_to_tell_apart_are_errors() {
        assert!(matches!(svg(&figure(0)), Err(PictureError::NoPoints)));
        assert!(svg(&figure(MAX_SCENARIOS)).is_ok());
        let error = svg(&figure(MAX_SCENARIOS + 1)).unwrap_err();
        assert!(error.to_string().contains("13 scenarios, but at most 12"), "{error}");
    }

    #[test]
    fn scenarios_differ_without_their_hue() {
        let dashes: BTreeSet<String> = LOOKS.iter().map(|look| format!("{:?}", look.dashes)).collect();
        let markers: BTreeSet<String> = LOOKS.iter().map(|look| format!("{:?} {}", look.marker, look.filled)).collect();
        assert_eq!((dashes.len(), markers.len()), (LOOKS.len(), LOOKS.len()));
        let luma = |look: &Look| {
            let RGBColor(red, green, blue) = look.colour;
            0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue)
        };
        assert!(LOOKS.windows(2).all(|pair| (luma(&pair[0]) - luma(&pair[1])).abs() > 15.0));
        assert!(LOOKS.iter().all(|look| luma(look) < 150.0), "too light for white paper");
    }

    #[test]
    fn dashes_follow_the_path_around_its_corners() {
        let path = [(0, 0), (10, 0), (10, 10)];
        assert_eq!(dash(&path, &[]), [path.to_vec()]);
        assert_eq!(
            dash(&path, &[4.0, 4.0]),
            [vec![(0, 0), (4, 0)], vec![(8, 0), (10, 0), (10, 2)], vec![(10, 6), (10, 10)]]
        );
        assert!(dash(&path[..1], &[4.0, 4.0]).is_empty());
        assert!(dash(&[], &[4.0, 4.0]).is_empty() && dash(&[], &[]).is_empty());
    }

    #[test]
    fn ticks_enclose_the_values_and_are_never_too_many() {
        let labels = |values: &[f64]| {
            let axis = Axis::of_values(values.iter().copied());
            axis.ticks.iter().map(Axis::format).collect::<Vec<String>>()
        };
        assert_eq!(labels(&[1_214.0, 14_800.0]), ["1000", "2000", "5000", "10k", "20k"]);
        assert_eq!(labels(&[1_000.0]), ["1000", "2000"]);
        assert_eq!(labels(&[1_000.0, 2_000_000.0])[10..], ["2M"]);
        assert_eq!(labels(&[0.3, 3.0]), ["0.2", "0.5", "1", "2", "5"]);
        assert_eq!(labels(&[1.0, 9e6]), ["1", "10", "100", "1000", "10k", "100k", "1M", "10M"]);
        assert_eq!(labels(&[]), ["1", "2"]);
    }

    fn figure(scenarios: usize) -> Figure {
        let point = |scenario: usize, power: u32| {
            let connections = 1 << power;
            let requests_per_s = f64::min(f64::from(connections) * 4_000.0, 80_000.0 / (scenario + 1) as f64);
            let p50_us = 1e6 * f64::from(connections) / requests_per_s;
            Point {
                scenario: format!("scenario {scenario}"),
                connections,
                requests_per_s,
                p50_us,
                p99_us: p50_us * 3.0,
                errors: 0,
            }
        };
        Figure {
            title: "Hello world (simulated)".to_owned(),
            parameters: "lab.toml".to_owned(),
            parameters_hash: "3f2a91".to_owned(),
            seed: 7,
            points: (0..scenarios).flat_map(|scenario| (0..=10).map(move |power| point(scenario, power))).collect(),
        }
    }
}
