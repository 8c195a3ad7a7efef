//! `explain`: two sentences, token by token.

use std::path::{Path, PathBuf};

use nearmiss::study::explain::{HeatMap, explain, explain_verifier};
use nearmiss::{Error, Result};

use super::super::args::{Common, Second};
use super::{close, close_verifier, open, open_verifier, print, scorers};

/// Draws the similarity map of two texts and shows it with every score; with the folder of a verifier, also with what its
/// verdict rests on.
pub fn run(
    common: &Common,
    second: &Second,
    verifier: Option<&Path>,
    texts: [&str; 2],
    svg: Option<PathBuf>,
) -> Result<()> {
    let scorers = scorers(second)?;
    match verifier {
        None => {
            let session = open(common)?;
            let found = explain(&session.encoder, texts, &scorers)?;
            let path = show(common, &found, svg)?;
            session.progress.log(&picture(&path));
            close(&session)
        }
        Some(folder) => {
            let (verifier, progress) = open_verifier(common, folder)?;
            let found = explain_verifier(&verifier, texts, &scorers)?;
            let path = show(common, &found, svg)?;
            progress.log(&picture(&path));
            close_verifier(common, &verifier, &progress)
        }
    }
}

fn picture(path: &Path) -> String {
    format!("picture: {}", path.display())
}

/// Prints a map and saves its picture; where that is.
fn show(common: &Common, found: &HeatMap, svg: Option<PathBuf>) -> Result<PathBuf> {
    let path = svg.unwrap_or_else(|| common.out.join("explain.svg"));
    found.save(&path)?;
    if common.json {
        let json = serde_json::to_string_pretty(found)
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
    Ok(path)
}
