//! How lines are told apart, also in black and white.

use super::{
    PictureError,
    canvas::{Canvas, Pixel},
};
use plotters::{
    prelude::{Circle, PathElement, Polygon, RGBColor, WHITE},
    style::{Color, ShapeStyle},
};

pub(super) struct Look {
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

/// No two have the same dashes with the same marker; neighbours differ in lightness. As the simulator's figure has them.
pub(super) const LOOKS: [Look; 12] = [
    look(0x000000, &[], Marker::Circle, true),
    look(0x0060a8, &[12.0, 5.0], Marker::Square, false),
    look(0xd55e00, &[3.0, 4.0], Marker::Up, true),
    look(0x00402f, &[14.0, 4.0, 3.0, 4.0], Marker::Diamond, false),
    look(0x8a8a8a, &[24.0, 6.0], Marker::Cross, true),
    look(0x6a1b6d, &[6.0, 4.0], Marker::Down, false),
    look(0x009e73, &[14.0, 4.0, 3.0, 4.0, 3.0, 4.0], Marker::Square, true),
    look(0x4d4d4d, &[4.0, 9.0], Marker::Circle, false),
    look(0x4a86d8, &[24.0, 5.0, 6.0, 5.0], Marker::Up, false),
    look(0x7a0019, &[9.0, 9.0], Marker::Diamond, true),
    look(0x9a7a10, &[3.0, 3.0, 3.0, 9.0], Marker::Down, true),
    look(0x1b2a55, &[24.0, 4.0, 3.0, 4.0, 3.0, 4.0], Marker::Plus, true),
];

const fn look(rgb: u32, dashes: &'static [f64], marker: Marker, filled: bool) -> Look {
    let [_, red, green, blue] = rgb.to_be_bytes();
    Look { colour: RGBColor(red, green, blue), dashes, marker, filled }
}

impl Look {
    /// A line along `path`.
    pub(super) fn line(&self, canvas: &Canvas<'_>, path: &[Pixel]) -> Result<(), PictureError> {
        for piece in dash(path, self.dashes) {
            canvas.stroke(piece, self.stroke())?;
        }
        Ok(())
    }

    /// A thin line from least to greatest.
    pub(super) fn whisker(&self, canvas: &Canvas<'_>, (x, low): Pixel, high: i32) -> Result<(), PictureError> {
        canvas.stroke(vec![(x, low), (x, high)], self.colour.stroke_width(1))
    }

    pub(super) fn mark(&self, canvas: &Canvas<'_>, (x, y): Pixel) -> Result<(), PictureError> {
        let inside = if self.filled { self.colour.filled() } else { WHITE.filled() };
        let corners: &[Pixel] = match self.marker {
            Marker::Circle => {
                canvas.0.draw(&Circle::new((x, y), 5, inside))?;
                canvas.0.draw(&Circle::new((x, y), 5, self.stroke()))?;
                return Ok(());
            }
            Marker::Cross | Marker::Plus => {
                let strokes = if self.marker == Marker::Cross { [(5, 5), (5, -5)] } else { [(7, 0), (0, 7)] };
                for (dx, dy) in strokes {
                    canvas.stroke(vec![(x - dx, y - dy), (x + dx, y + dy)], self.colour.stroke_width(3))?;
                }
                return Ok(());
            }
            Marker::Square => &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
            Marker::Up => &[(0, -7), (6, 5), (-6, 5)],
            Marker::Down => &[(0, 7), (6, -5), (-6, -5)],
            Marker::Diamond => &[(0, -7), (7, 0), (0, 7), (-7, 0)],
        };
        let corners: Vec<Pixel> = corners.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        canvas.0.draw(&Polygon::new(corners.clone(), inside))?;
        // Once around and over the first side again: that joins the last corner, too.
        let around: Vec<Pixel> = corners.iter().cycle().take(corners.len() + 2).copied().collect();
        canvas.0.draw(&PathElement::new(around, self.stroke()))?;
        Ok(())
    }

    fn stroke(&self) -> ShapeStyle {
        self.colour.stroke_width(2)
    }
}

/// Cuts a path into its inked pieces; SVG could do this itself, but plotters has no word for it.
fn dash(path: &[Pixel], dashes: &[f64]) -> Vec<Vec<Pixel>> {
    if dashes.is_empty() {
        return vec![path.to_vec()];
    }
    let mut pieces: Vec<Vec<Pixel>> = Vec::new();
    let mut piece: Vec<Pixel> = Vec::new();
    let (mut index, mut left) = (0, dashes[0]);
    for pair in path.windows(2) {
        let [(x, y), (to_x, to_y)] = [pair[0], pair[1]];
        let (dx, dy) = (f64::from(to_x - x), f64::from(to_y - y));
        let length = dx.hypot(dy);
        let mut done = 0.0;
        while done < length {
            let step = left.min(length - done);
            let at = |done: f64| (x + (dx * done / length).round() as i32, y + (dy * done / length).round() as i32);
            // Even ones are inked.
            if index % 2 == 0 {
                if piece.is_empty() {
                    piece.push(at(done));
                }
                piece.push(at(done + step));
            }
            done += step;
            left -= step;
            if left <= 0.0 {
                if !piece.is_empty() {
                    pieces.push(std::mem::take(&mut piece));
                }
                index = (index + 1) % dashes.len();
                left = dashes[index];
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashed_line_has_its_gaps_also_around_corners() {
        let path = [(0, 0), (10, 0), (10, 10)];
        assert_eq!(dash(&path, &[]), [path.to_vec()]);
        assert_eq!(
            dash(&path, &[6.0, 2.0]),
            [vec![(0, 0), (6, 0)], vec![(8, 0), (10, 0), (10, 4)], vec![(10, 6), (10, 10)]]
        );
        assert!(dash(&[(1, 1)], &[3.0, 3.0]).is_empty());
    }

    #[test]
    fn no_two_looks_are_the_same_without_colour() {
        for (index, one) in LOOKS.iter().enumerate() {
            for other in &LOOKS[..index] {
                assert!(one.dashes != other.dashes, "dashes of {index}");
                assert!((one.marker, one.filled) != (other.marker, other.filled), "marker of {index}");
            }
        }
    }
}
