//! `verify`: whether sentences mean the same, as a guard sees it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use nearmiss::data::pairs::each_pair;
use nearmiss::study::escape;
use nearmiss::verifier::{Verdict, Verifier};
use nearmiss::{Error, Result};
use serde::Serialize;

use super::super::args::Run;
use super::{Answer, close_verifier, guard, open_verifier, print_as_it_is};

/// Pairs that are scored together at most.
const AT_ONCE: usize = 512;

/// Pairs that are read ahead.
const AHEAD: usize = 2 * AT_ONCE;

/// Judges two sentences, or the pairs of a file.
pub fn run(
    run: &Run,
    folder: Option<PathBuf>,
    pairs: Option<&Path>,
    texts: Option<(String, String)>,
) -> Result<Answer> {
    if let Some((first, second)) = &texts {
        for (text, which) in [(first, "first"), (second, "second")] {
            if text.trim().is_empty() {
                return Err(Error::Invalid(format!(
                    "the {which} text is empty; there is nothing to compare"
                )));
            }
        }
    }
    let folder = guard(run, folder);
    let (verifier, progress) = open_verifier(run, &folder)?;
    // Better known than after the first pairs.
    let threshold = verifier.threshold();
    threshold.map_err(|e| Error::input(&folder, format!("{e} (`calibrate` does)")))?;
    let answer = match (pairs, texts) {
        (Some(file), _) => many(run, &verifier, file)?,
        (None, Some((first, second))) => one(run, &verifier, [first, second])?,
        (None, None) => return Err(Error::Usage("give two texts, or --pairs FILE".into())),
    };
    if run.profile {
        close_verifier(run, &verifier, &progress)?;
    }
    Ok(answer)
}

fn one(run: &Run, verifier: &Verifier, texts: [String; 2]) -> Result<Answer> {
    let verdict = verifier.judge(std::slice::from_ref(&texts));
    let named = |i| format!("the {} text", ["first", "second"][i]);
    let verdict = verdict.map_err(|e| e.naming_text(named))?[0];
    print_as_it_is(&match run.json {
        true => object(&texts, verdict)?,
        false => format!(
            "{} (score {:.4}, threshold {:.4})\n",
            says(verdict),
            verdict.score,
            verdict.threshold
        ),
    })?;
    Ok(match verdict.accepted {
        true => Answer::Yes,
        false => Answer::No,
    })
}

/// A pair of a file, and its line.
struct Row {
    line: usize,
    texts: [String; 2],
}

/// Judges pairs as they come: those that are there already together, so that who waits for a verdict before the next pair
/// gets it, and a file goes through in large pieces.
fn many(run: &Run, verifier: &Verifier, file: &Path) -> Result<Answer> {
    let (send, rows) = sync_channel(AHEAD);
    let path = file.to_path_buf();
    let reader = thread::spawn(move || {
        each_pair(&path, |line, texts| {
            let row = Row {
                line,
                texts: texts.map(str::to_string),
            };
            // Nobody takes more pairs where nobody reads verdicts any more, or where one could not be made.
            send.send(row)
                .map_err(|_| Error::Stopped("no more pairs are wanted".into()))
        })
    });
    let mut answer = Answer::Yes;
    while let Some(piece) = next_piece(&rows) {
        let texts: Vec<&[String; 2]> = piece.iter().map(|row| &row.texts).collect();
        let texts: Vec<[&str; 2]> = texts.iter().map(|[a, b]| [&a[..], b]).collect();
        let named = |i: usize| {
            let line = piece[i / 2].line;
            format!("sentence{} of line {line} of {}", i % 2 + 1, file.display())
        };
        let verdicts = verifier.judge(&texts).map_err(|e| e.naming_text(named))?;
        let mut out = String::new();
        for (row, verdict) in piece.iter().zip(verdicts) {
            if !verdict.accepted {
                answer = Answer::No;
            }
            out += &match run.json {
                true => object(&row.texts, verdict)?,
                false => line(&row.texts, verdict),
            };
        }
        if !print_as_it_is(&out)? {
            return Ok(answer);
        }
    }
    match reader.join() {
        Ok(read) => read.map(|()| answer),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// At least one pair, and what else is there; `None` at the end.
fn next_piece(rows: &Receiver<Row>) -> Option<Vec<Row>> {
    let first = rows.recv().ok()?;
    let more = rows.try_iter().take(AT_ONCE - 1);
    Some(std::iter::once(first).chain(more).collect())
}

fn says(verdict: Verdict) -> &'static str {
    match verdict.accepted {
        true => "accept",
        false => "reject",
    }
}

/// A verdict in a line: fields between tabs, white space in a sentence as single spaces, nothing that a terminal obeys.
fn line(texts: &[String; 2], verdict: Verdict) -> String {
    let [a, b] = [0, 1].map(|i| texts[i].split_whitespace().collect::<Vec<_>>().join(" "));
    format!(
        "{}\t{:.4}\t{:.4}\t{}\t{}\n",
        says(verdict),
        verdict.score,
        verdict.threshold,
        escape::line(&a),
        escape::line(&b)
    )
}

/// The same as a JSON object.
fn object(texts: &[String; 2], verdict: Verdict) -> Result<String> {
    #[derive(Serialize)]
    struct Judged<'a> {
        sentence1: &'a str,
        sentence2: &'a str,
        #[serde(flatten)]
        verdict: Verdict,
    }
    let judged = Judged {
        sentence1: &texts[0],
        sentence2: &texts[1],
        verdict,
    };
    let object = serde_json::to_string(&judged);
    let object = object.map_err(|e| Error::Invalid(format!("a verdict as JSON: {e}")))?;
    Ok(escape::json(&object).into_owned() + "\n")
}
