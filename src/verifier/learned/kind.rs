//! The scorers that there are.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Every scorer that can be trained, or through which an encoder can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The cosine of mean token vectors.
    MeanCosine,
    /// The mean of the map.
    BagOfSimilarities,
    /// The mean of the row maxima.
    MaxSim,
    /// Rows of the map under a softmax that prefers near positions.
    SoftAlignment,
    /// A small network of convolutions over the map.
    Cnn,
    /// A small Transformer over patches of the map.
    Transformer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [
        Kind::MeanCosine,
        Kind::BagOfSimilarities,
        Kind::MaxSim,
        Kind::SoftAlignment,
        Kind::Cnn,
        Kind::Transformer,
    ];

    /// What tables and files call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MeanCosine => "none",
            Kind::BagOfSimilarities => "f0",
            Kind::MaxSim => "f1",
            Kind::SoftAlignment => "f2",
            Kind::Cnn => "f3",
            Kind::Transformer => "f4",
        }
    }

    /// Whether it has weights of its own, so that it can be trained while the encoder stays as it is.
    pub fn learns(self) -> bool {
        matches!(self, Kind::Cnn | Kind::Transformer)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            Error::Usage(format!(
                "there is no verifier `{name}`: choose from {known}"
            ))
        })
    }
}
