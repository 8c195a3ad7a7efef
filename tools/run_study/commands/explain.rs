//! `explain`: two sentences, token by token.

use std::path::{Path, PathBuf};

use nearmiss::study::explain::{HeatMap, explain, explain_verifier};
use nearmiss::study::progress::Progress;
use nearmiss::{Error, Result};

use super::super::args::{Common, Second};
use super::{close, close_verifier, open, open_verifier, print_as_it_is, print_json, scorers};

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
            show(common, &found, svg, &session.progress)?;
            close(&session)
        }
        Some(folder) => {
            let (verifier, progress) = open_verifier(common, folder)?;
            let found = explain_verifier(&verifier, texts, &scorers)?;
            show(common, &found, svg, &progress)?;
            close_verifier(common, &verifier, &progress)
        }
    }
}

/// Prints a map, then saves its picture: where that cannot be, what was found is still there to read.
fn show(common: &Common, found: &HeatMap, svg: Option<PathBuf>, progress: &Progress) -> Result<()> {
    if common.json {
        print_json(found)?;
    } else {
        let stdout = console::Term::stdout();
        let width = if stdout.is_term() {
            usize::from(stdout.size().1)
        } else {
            120
        };
        print_as_it_is(&found.text(width, console::colors_enabled()))?;
    }
    let path = svg.unwrap_or_else(|| common.out.join("explain.svg"));
    found.save(&path).map_err(|e| {
        Error::Invalid(format!(
            "the picture could not be saved: {e}; name another place with --svg"
        ))
    })?;
    progress.log(&format!("picture: {}", path.display()));
    Ok(())
}
