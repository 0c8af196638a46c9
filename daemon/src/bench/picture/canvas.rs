//! Text and strokes on an SVG.

use super::PictureError;
use plotters::{
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    prelude::{PathElement, RGBColor, Rectangle, SVGBackend, WHITE},
    style::{
        Color, FontDesc, FontFamily, FontStyle, FontTransform, IntoFont, ShapeStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

pub(super) type Pixel = (i32, i32);
pub(super) const INK: RGBColor = RGBColor(20, 20, 20);
pub(super) const GRID: RGBColor = RGBColor(222, 222, 222);

pub(super) struct Canvas<'a>(pub(super) DrawingArea<SVGBackend<'a>, Shift>);

impl<'a> Canvas<'a> {
    pub(super) fn new(out: &'a mut String, width: i32, height: i32) -> Result<Self, PictureError> {
        let root = SVGBackend::with_string(out, (width as u32, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        Ok(Self(root))
    }

    /// Text with its middle line at `at`.
    pub(super) fn text(&self, text: &str, at: Pixel, px: f64, anchor: HPos) -> Result<(), PictureError> {
        self.styled(text, at, px, anchor, FontStyle::Normal)
    }

    pub(super) fn bold(&self, text: &str, at: Pixel, px: f64) -> Result<(), PictureError> {
        self.styled(text, at, px, HPos::Left, FontStyle::Bold)
    }

    fn styled(&self, text: &str, at: Pixel, px: f64, anchor: HPos, style: FontStyle) -> Result<(), PictureError> {
        // The SVG writer divides sizes by this factor.
        let font = FontDesc::new(FontFamily::SansSerif, px * 1.24, style).color(&INK);
        self.0.draw_text(text, &font.pos(Pos::new(anchor, VPos::Center)), at)?;
        Ok(())
    }

    /// Text from below upwards, around `at`.
    pub(super) fn upright(&self, text: &str, at: Pixel, px: f64) -> Result<(), PictureError> {
        let font = FontDesc::new(FontFamily::SansSerif, px * 1.24, FontStyle::Normal);
        let font = font.into_font().transform(FontTransform::Rotate270).color(&INK);
        self.0.draw_text(text, &font.pos(Pos::new(HPos::Center, VPos::Center)), at)?;
        Ok(())
    }

    pub(super) fn stroke(&self, path: Vec<Pixel>, style: ShapeStyle) -> Result<(), PictureError> {
        self.0.draw(&PathElement::new(path, style))?;
        Ok(())
    }

    pub(super) fn line(&self, from: Pixel, to: Pixel, colour: RGBColor) -> Result<(), PictureError> {
        self.stroke(vec![from, to], colour.stroke_width(1))
    }

    pub(super) fn bar(&self, from: Pixel, to: Pixel, fill: RGBColor) -> Result<(), PictureError> {
        self.0.draw(&Rectangle::new([from, to], fill.filled()))?;
        self.0.draw(&Rectangle::new([from, to], INK.stroke_width(1)))?;
        Ok(())
    }

    pub(super) fn done(&self) -> Result<(), PictureError> {
        self.0.present()?;
        Ok(())
    }
}

/// Cuts `text` into lines of about `width` pixels.
pub(super) fn wrap(text: &str, px: f64, width: i32) -> Vec<String> {
    let most = (f64::from(width) / (px * 0.56)) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < most => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}
