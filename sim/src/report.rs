//! What a series of runs has shown, as text for people, text for programs, and a picture.
//!
//! - [`Figure`] holds the points of several scenarios over the number of connections, and where they come from.
//!   [`Figure::table`], [`Figure::csv`] and [`Figure::json`] render it.
//! - [`svg`] draws it.
//!
//! Every rendering says that its points are simulated and names the parameters by their hash: a simulated point beside
//! a measured one must not pass for it. No files, no clock: the caller writes what it gets.

mod picture;
mod table;

pub use picture::{MAX_SCENARIOS, PictureError, svg};
pub use table::{Figure, Point};
