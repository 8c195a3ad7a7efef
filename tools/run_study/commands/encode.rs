//! `encode`: embeddings as a file.

use std::path::Path;

use nearmiss::data::beir::{Collection, Document};
use nearmiss::data::{check_output, read_texts};
use nearmiss::index::VectorIndex;
use nearmiss::text::TextKind;
use nearmiss::{Error, Result};
use serde_json::json;

use super::super::args::{Common, Kind};
use super::{close, open, print_json};

/// Writes the embeddings of texts, or of a collection's documents, to `output`.
pub fn run(
    common: &Common,
    texts: Option<&Path>,
    data: Option<&Path>,
    kind: Kind,
    output: &Path,
) -> Result<()> {
    let extension = output.extension().and_then(|e| e.to_str());
    let extension = extension.unwrap_or_default();
    if !["npy", "safetensors"].contains(&extension) {
        return Err(Error::Usage(format!(
            "--output {}: end its name in .npy or .safetensors",
            output.display()
        )));
    }
    check_output(output)?;
    // The texts, what an error calls one, and what is odd about them.
    let (texts, name, notes): (Vec<String>, Box<dyn Fn(usize) -> String>, _) = match (texts, data) {
        (Some(file), _) => {
            let name = move |i| format!("line {} of {}", i + 1, file.display());
            (read_texts(file)?, Box::new(name), Vec::new())
        }
        (None, Some(folder)) => {
            let (corpus, notes) = Collection::load_corpus(folder)?;
            let document = |d: Document| (d.text_for_encoder().into_owned(), d.id);
            let (texts, ids): (_, Vec<String>) = corpus.into_iter().map(document).unzip();
            let name = move |i| format!("document {}", ids[i]);
            (texts, Box::new(name), notes.lines())
        }
        (None, None) => {
            return Err(Error::Usage(
                "encode: give --texts FILE or --data DIR".into(),
            ));
        }
    };
    let session = open(common)?;
    for note in &notes {
        session.progress.log(note);
    }
    let encoder = &session.encoder;
    let kind = match kind {
        Kind::Query => TextKind::Query,
        Kind::Document => TextKind::Document,
    };
    let mut task = session.progress.task("texts", texts.len());
    let stats = if extension == "npy" {
        let mut rows = Vec::with_capacity(texts.len() * encoder.width());
        let keep = |_, part: &[f32]| {
            rows.extend_from_slice(part);
            Ok(())
        };
        let stats = encoder
            .encode(&texts, kind, keep, |done, _| task.at(done))
            .map_err(|e| e.naming_text(&name))?;
        nearmiss::data::write_npy(output, &rows, encoder.width())?;
        stats
    } else {
        let mut index = VectorIndex::with_capacity(encoder.device(), encoder.width(), texts.len())?;
        let stats = index
            .append_texts_with(encoder, &texts, kind, |done, _| task.at(done))
            .map_err(|e| e.naming_text(&name))?;
        index.save(output)?;
        stats
    };
    let time = task.finish().as_secs_f64();
    if common.json {
        let value = json!({
            "output": output.display().to_string(),
            "texts": stats.texts,
            "width": encoder.width(),
            "tokens": stats.tokens,
            "texts_cut": stats.truncated,
            "texts_empty": stats.empty,
            "notes": notes,
            "seconds": time,
        });
        print_json(&value)?;
    }
    session.progress.log(&format!(
        "{} texts, {} tokens in {time:.1} s ({:.0} tokens/s, {:.1} texts/s); {} cut, {} empty; saved: {}",
        stats.texts,
        stats.tokens,
        stats.tokens as f64 / time,
        stats.texts as f64 / time,
        stats.truncated,
        stats.empty,
        output.display()
    ));
    close(&session)
}
