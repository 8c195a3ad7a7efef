//! `explain`: two sentences, token by token.

use std::path::PathBuf;

use nearmiss::study::explain::explain;
use nearmiss::{Error, Result};

use super::super::args::{Common, Second};
use super::{close, open, print, scorers};

/// Draws the similarity map of two texts and shows it with every score.
pub fn run(common: &Common, second: &Second, texts: [&str; 2], svg: Option<PathBuf>) -> Result<()> {
    let scorers = scorers(second)?;
    let session = open(common)?;
    let found = explain(&session.encoder, texts, &scorers)?;
    let path = svg.unwrap_or_else(|| common.out.join("explain.svg"));
    found.save(&path)?;
    if common.json {
        let json = serde_json::to_string_pretty(&found)
            .map_err(|e| Error::Invalid(format!("the map as JSON: {e}")))?;
        print(&format!("{json}\n"))?;
    } else {
        let stdout = console::Term::stdout();
        let width = if stdout.is_term() {
            usize::from(stdout.size().1)
        } else {
            120
        };
        print(&found.text(width, console::colors_enabled()))?;
    }
    session
        .progress
        .log(&format!("picture: {}", path.display()));
    close(&session)
}
