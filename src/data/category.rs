//! Names for kinds of meaning-changing edits.

use std::fmt;

use serde::{Serialize, Serializer};

/// What an edit does to the meaning of a sentence. The names are those of files and tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// `negation`: a negator put in or taken out.
    Negation,
    /// `binding`: the modifiers of two heads exchanged.
    Binding,
    /// `spatial`: a relation of place, direction or time replaced by its converse.
    Spatial,
    /// `role`: subject and object of a relation that is not symmetric exchanged.
    Role,
    /// `quantity`: a number or quantifier changed.
    Quantity,
    /// Any other name, as it is.
    Other(String),
}

impl Category {
    /// Reads a name or one of its aliases in any case; a name that is not known is kept as it is.
    ///
    /// ```
    /// use nearmiss::data::Category;
    /// assert_eq!(Category::parse("cannot_negation"), Category::Negation);
    /// assert_eq!(Category::parse("Idiom").to_string(), "Idiom");
    /// ```
    pub fn parse(name: &str) -> Self {
        let name = name.trim();
        match name.to_ascii_lowercase().as_str() {
            "negation" | "neg" | "cannot_negation" => Category::Negation,
            "binding" | "bind" | "binding_negation" => Category::Binding,
            "spatial" | "spat" => Category::Spatial,
            "role" => Category::Role,
            "quantity" | "quant" => Category::Quantity,
            _ => Category::Other(name.to_string()),
        }
    }

    /// The name in files and tables.
    pub fn name(&self) -> &str {
        match self {
            Category::Negation => "negation",
            Category::Binding => "binding",
            Category::Spatial => "spatial",
            Category::Role => "role",
            Category::Quantity => "quantity",
            Category::Other(name) => name,
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Category {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
