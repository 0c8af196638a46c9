//! What is asked of the TAP's offload, as the command line says it.

use crate::sys::tun::Features;
use nitrotap_core::offload::Merge;
use std::{fmt, str::FromStr};

/// Which kinds of offload are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offload {
    csum: bool,
    tso: bool,
    uso: bool,
    gro: bool,
    /// The kernel takes UDP super-frames; known once the TAP is there.
    udp_gro: bool,
}

impl Offload {
    pub(crate) const NONE: Self = Self { csum: false, tso: false, uso: false, gro: false, udp_gro: false };
    pub(crate) const ALL: Self = Self { csum: true, tso: true, uso: true, gro: true, udp_gro: false };

    /// What to ask of the kernel.
    pub(super) const fn features(self) -> Features {
        let mut features = Features::CSUM;
        if !self.csum {
            return features.without(Features::CSUM);
        }
        if self.tso {
            features = features.union(Features::TSO);
        }
        // Whether it takes UDP super-frames is only told to who offers to take them from it.
        if self.uso {
            features = features.union(Features::USO);
        }
        features
    }

    /// This, as far as the kernel has `features`.
    pub(super) const fn limited_to(self, features: Features) -> Self {
        let uso = self.uso && features.contains(Features::USO);
        Self {
            csum: self.csum && features.contains(Features::CSUM),
            tso: self.tso && features.contains(Features::TSO),
            uso,
            gro: self.gro,
            udp_gro: self.gro && uso,
        }
    }

    /// What to join towards the TAP.
    pub(super) const fn merge(self) -> Merge {
        Merge { tcp: self.gro, udp: self.udp_gro }
    }
}

impl FromStr for Offload {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        text.split(',').try_fold(Self::NONE, |offload, word| {
            Ok(match word {
                "csum" => Self { csum: true, ..offload },
                // The kernel leaves no super-frame to who cannot finish a checksum.
                "tso" => Self { csum: true, tso: true, ..offload },
                "uso" => Self { csum: true, uso: true, ..offload },
                "gro" => Self { gro: true, ..offload },
                _ => return Err("expected all, none, or some of csum,tso,uso,gro with commas between"),
            })
        })
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (Self { udp_gro: false, ..*self }) == Self::ALL {
            return f.write_str("all");
        }
        let words = [(self.csum, "csum"), (self.tso, "tso"), (self.uso, "uso"), (self.gro, "gro")];
        let mut on = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word);
        f.write_str(on.next().unwrap_or("none"))?;
        on.try_for_each(|word| write!(f, ",{word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_as_written_and_super_frames_need_checksums() {
        for text in ["all", "none", "csum", "csum,tso", "csum,uso,gro", "gro"] {
            assert_eq!(text.parse::<Offload>().unwrap().to_string(), text);
        }
        assert_eq!("tso".parse::<Offload>(), "csum,tso".parse());
        for bad in ["", "tso,", "all,gro", "TSO", "lro"] {
            assert!(bad.parse::<Offload>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_kernel_lacks_is_off() {
        let limited = Offload::ALL.limited_to(Features::CSUM.union(Features::TSO));
        assert_eq!(limited.to_string(), "csum,tso,gro");
        assert!(!limited.merge().udp);
        assert!(Offload::ALL.limited_to(Offload::ALL.features()).merge().udp);
        assert_eq!(Offload::NONE.features(), Features::default());
    }
}
