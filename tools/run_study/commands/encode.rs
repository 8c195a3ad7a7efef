//! `encode`: embeddings as a file.

use std::path::Path;

use nearmiss::data::beir::Collection;
use nearmiss::data::read_texts;
use nearmiss::index::VectorIndex;
use nearmiss::text::TextKind;
use nearmiss::{Error, Result};

use super::super::args::{Common, Kind};
use super::{close, open};

/// Writes the embeddings of texts, or of a collection's documents, to `output`.
pub fn run(
    common: &Common,
    texts: Option<&Path>,
    data: Option<&Path>,
    kind: Kind,
    output: &Path,
) -> Result<()> {
    let texts: Vec<String> = match (texts, data) {
        (Some(file), _) => read_texts(file)?,
        (None, Some(folder)) => Collection::load(folder, "test")?
            .corpus
            .iter()
            .map(|d| d.text_for_encoder().into_owned())
            .collect(),
        (None, None) => {
            return Err(Error::Usage(
                "encode: give --texts FILE or --data DIR".into(),
            ));
        }
    };
    let extension = output
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    if !["npy", "safetensors"].contains(&extension) {
        return Err(Error::Usage(format!(
            "--output {}: end its name in .npy or .safetensors",
            output.display()
        )));
    }
    let session = open(common)?;
    let encoder = &session.encoder;
    let kind = match kind {
        Kind::Query => TextKind::Query,
        Kind::Document => TextKind::Document,
    };
    let mut task = session.progress.task("texts", texts.len());
    let stats = if extension == "npy" {
        let mut rows = Vec::with_capacity(texts.len() * encoder.width());
        let stats = encoder.encode(
            &texts,
            kind,
            |_, part| {
                rows.extend_from_slice(part);
                Ok(())
            },
            |done, _| task.at(done),
        )?;
        nearmiss::data::write_npy(output, &rows, encoder.width())?;
        stats
    } else {
        let mut index = VectorIndex::with_capacity(encoder.device(), encoder.width(), texts.len())?;
        let stats = encoder.encode(
            &texts,
            kind,
            |_, part| index.append(part),
            |done, _| task.at(done),
        )?;
        index.save(output)?;
        stats
    };
    let time = task.finish().as_secs_f64();
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
