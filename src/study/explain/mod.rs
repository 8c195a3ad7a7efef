//! Why two sentences score as they do: their token similarity map, who won in it, and every score.

pub mod heat_map;

pub use heat_map::{HeatMap, Rests};

use super::pair_scores::{POOLED, Scorers};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::metrics::statistics::cosine;
use crate::ops::maxsim::{NO_WINNER, Reduction, maxsim};
use crate::ops::similarity_map::similarity_map;
use crate::ops::{MapLayout, PairList, Pairs};
use crate::text::TextKind;
use crate::verifier::{Scorer, Verdict, Verifier};

/// Compares `texts`, the first as query and the second as candidate, on as many tokens of each as verifiers see.
///
/// `scores` of the result begin with `pooled`, the cosine of the encoder's own embeddings.
///
/// # Errors
/// [`Error::Invalid`] for a text that is empty, or what encoder and verifiers report.
pub fn explain(encoder: &Encoder, texts: [&str; 2], scorers: &Scorers) -> Result<HeatMap> {
    compare(encoder, texts, scorers, None)
}

/// [`explain`] with the encoder of a verifier, and on as many tokens as that sees: its score and verdict too, and what the
/// score rests on.
///
/// # Errors
/// As [`explain`].
pub fn explain_verifier(
    verifier: &Verifier,
    texts: [&str; 2],
    scorers: &Scorers,
) -> Result<HeatMap> {
    compare(verifier.encoder(), texts, scorers, Some(verifier))
}

fn compare(
    encoder: &Encoder,
    texts: [&str; 2],
    scorers: &Scorers,
    verifier: Option<&Verifier>,
) -> Result<HeatMap> {
    for (text, which) in texts.iter().zip(["first", "second"]) {
        if text.trim().is_empty() {
            return Err(Error::Invalid(format!(
                "the {which} text is empty; there is nothing to compare"
            )));
        }
    }
    let device = encoder.device();
    let mut vectors = None;
    let limit = match verifier {
        None => scorers.limit(encoder),
        Some(verifier) => {
            let limit = verifier.config().max_length;
            limit.min(encoder.tokenizer().max_length())
        }
    };
    let keep = |_, both, _: &[f32]| {
        vectors = Some(both);
        Ok(())
    };
    let named = |e: Error| e.naming_text(|i| format!("the {} text", ["first", "second"][i]));
    encoder
        .encode_tokens(&texts, TextKind::Plain, Some(limit), keep, |_, _| {})
        .map_err(named)?;
    let vectors = vectors.expect("two texts are one piece");
    let (tokens, d) = (vectors.tokens(), vectors.width());

    let pair = PairList::new(device, vec![[0, 1]])?;
    let layout = MapLayout::new(device, tokens.packing, tokens.packing, &pair)?;
    let mut map = device.alloc::<f32>(layout.elements())?;
    similarity_map(tokens, tokens, d, &pair, &layout, &mut map)?;
    let offsets = tokens.packing.offsets();
    let lengths = [offsets[1], offsets[2] - offsets[1]].map(|n| n as usize);
    let mut winners = device.alloc::<u32>(lengths[0].max(lengths[1]))?;
    let mut best = device.alloc::<f32>(1)?;
    maxsim(
        tokens,
        tokens,
        d,
        Pairs::Listed(&pair),
        Reduction::Mean,
        &mut best,
        Some(winners.as_slice_mut()),
    )?;

    let pooled = encoder.embed(&texts, TextKind::Plain).map_err(named)?;
    let (a, b) = pooled.split_at(d);
    let mut scores = vec![(POOLED.to_string(), cosine(a, b))];
    for verifier in &scorers.verifiers {
        let score = verifier.score(&vectors, &vectors, &pair)?;
        scores.push((verifier.name(), f64::from(score[0])));
    }
    let rests = verifier.map(|verifier| {
        let scorer = verifier.scorer();
        let score = f64::from(scorer.score(&vectors, &vectors, &pair)?[0]);
        let name = format!("verifier {}", scorer.kind());
        scores.push((name.clone(), score));
        let found = scorer.contributions(&vectors, &vectors, [0, 1])?;
        let verdict = verifier.threshold().ok().map(|threshold| Verdict {
            score,
            threshold,
            accepted: score >= threshold,
        });
        Ok::<_, Error>(Rests {
            name,
            verdict,
            contributions: found.map_or(Vec::new(), |found| found.values),
        })
    });
    let rests = rests.transpose()?;
    let tokenizer = encoder.tokenizer().with_max_length(limit)?;
    let ids = tokenizer.encode_kind(&texts, TextKind::Plain)?.ids;
    let named = |ids: &[u32]| -> Vec<String> {
        let name = |&id| tokenizer.token(id).unwrap_or_else(|| format!("#{id}"));
        ids.iter().map(name).collect()
    };
    Ok(HeatMap {
        texts: texts.map(str::to_string),
        rows: named(&ids[0]),
        columns: named(&ids[1]),
        map: map.read()?,
        winners: winners.read()?[..lengths[0]]
            .iter()
            .map(|&j| (j != NO_WINNER).then_some(j as usize))
            .collect(),
        scores,
        rests,
    })
}
