//! Frames as they lie in a stream's bytes, by somebody who has no part in sending or taking them.
//!
//! Bounds: one frame is kept.

/// The frames of one stream and direction.
#[derive(Debug, Default)]
pub(crate) struct Carver {
    /// The beginning of a frame, with its prefix.
    begun: Vec<u8>,
}

impl Carver {
    /// Whether the last byte taken was the last one of a frame.
    pub(crate) const fn is_between_frames(&self) -> bool {
        self.begun.is_empty()
    }

    /// Bytes that are known to be missing of the frame that has begun.
    pub(crate) fn missing(&self) -> usize {
        match self.begun.first_chunk::<2>() {
            Some(prefix) => 2 + usize::from(u16::from_le_bytes(*prefix)) - self.begun.len(),
            None => 2 - self.begun.len(),
        }
    }

    /// Takes bytes that have left, and gives each frame that is complete with them to `frame`.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut frame: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let part = self.missing().min(bytes.len());
            self.begun.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.begun.len() >= 2 && self.missing() == 0 {
                frame(&self.begun[2..]);
                self.begun.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_carved_at_any_split() {
        let frames = [b"a".to_vec(), b"bc".to_vec(), vec![0; 300]];
        let bytes: Vec<u8> = frames.iter().flat_map(|f| [&(f.len() as u16).to_le_bytes()[..], f].concat()).collect();
        for size in [1, 2, 3, 57, 1000] {
            let (mut carver, mut got) = (Carver::default(), Vec::new());
            for part in bytes.chunks(size) {
                carver.take(part, |frame| got.push(frame.to_vec()));
            }
            assert_eq!(got, frames);
            assert!(carver.is_between_frames());
        }
    }
}
