//! What is saved of a run is enough to compute its numbers again: judgements and rankings give every metric, scores of pairs
//! every rate, area, margin and change, cosines of triplets every mean.
//!
//! Everything is computed here in a plain way of its own, from the files alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A scratch folder in which the program is run.
struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Scratch {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a command with a model of random weights, and returns the folder of its stage.
    fn run(&self, command: &str, model: &str, more: &[&str]) -> PathBuf {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let output = Command::new(env!("CARGO_BIN_EXE_run-study"))
            .env("NEARMISS_CACHE", self.dir.path().join("cache"))
            .env("HF_HOME", self.dir.path().join("hf"))
            .current_dir(self.dir.path())
            .args([command, "--device", "cpu", "--out", "out", "--backbone"])
            .arg(golden.join(model))
            .args(more)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let folders = fs::read_dir(self.dir.path().join("out")).unwrap();
        let of_stage = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&format!("{command}-"))
        };
        let found: Vec<PathBuf> = folders
            .map(|f| f.unwrap().path())
            .filter(of_stage)
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn lines(path: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// Numbers of the same values, added up and divided in another order. Sums here have at most 20,000 terms and magnitudes
/// below 200; each term's rounding and that of the sum so far cost 2^-53 of these at most.
#[track_caller]
fn same(what: &str, got: &Value, want: f64) {
    let tolerance = 20_000.0 * 200.0 * 2f64.powi(-53);
    let got = number(got);
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: {got} is saved, {want} is right"
    );
}

#[track_caller]
fn same_or_none(what: &str, got: &Value, want: Option<f64>) {
    match want {
        Some(want) => same(what, got, want),
        None => assert!(
            got.is_null() || got.get("refused").is_some(),
            "{what}: {got}"
        ),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    mean(
        &values
            .iter()
            .map(|v| (v - middle) * (v - middle))
            .collect::<Vec<_>>(),
    )
    .sqrt()
}

#[track_caller]
fn same_summary(what: &str, got: &Value, values: &[f64]) {
    assert_eq!(got["n"], values.len(), "{what}");
    if !values.is_empty() {
        same(what, &got["mean"], mean(values));
        same(what, &got["std"], deviation(values));
    }
}

// Rankings.

/// Every metric of a ranking, given the grades of its documents in order and of all that were judged.
fn metrics_of(grades: &[i64], judged: &[i64]) -> BTreeMap<String, f64> {
    let relevant = judged.iter().filter(|&&grade| grade > 0).count() as f64;
    let hit = |rank: usize| grades.get(rank - 1).is_some_and(|&grade| grade > 0);
    let hits = |k: usize| (1..=k).filter(|&rank| hit(rank)).count() as f64;
    let log = |rank: usize| (rank as f64 + 1.0).log2();
    let mut all = BTreeMap::new();
    let dcg: f64 = (1..=10)
        .filter(|&rank| hit(rank))
        .map(|rank| 1.0 / log(rank))
        .sum();
    let best: f64 = (1..=10usize.min(relevant as usize))
        .map(|rank| 1.0 / log(rank))
        .sum();
    all.insert("ndcg@10".into(), dcg / best);
    let mut ideal = judged.to_vec();
    ideal.sort();
    ideal.reverse();
    for k in [1, 3, 5, 10] {
        let first = (1..=k).find(|&rank| hit(rank));
        all.insert(
            format!("mrr@{k}"),
            first.map_or(0.0, |rank| 1.0 / rank as f64),
        );
        all.insert(
            format!("accuracy@{k}"),
            f64::from(u8::from(first.is_some())),
        );
        all.insert(format!("precision@{k}"), hits(k) / k as f64);
        all.insert(format!("recall@{k}"), hits(k) / relevant);
        let gain = |list: &[i64]| -> f64 {
            (1..=k.min(list.len()))
                .map(|rank| list[rank - 1].max(0) as f64 / log(rank))
                .sum()
        };
        all.insert(format!("graded_ndcg@{k}"), gain(grades) / gain(&ideal));
    }
    all.insert("recall@100".into(), hits(100) / relevant);
    let precisions = (1..=100)
        .filter(|&rank| hit(rank))
        .map(|rank| hits(rank) / rank as f64);
    all.insert(
        "map@100".into(),
        precisions.sum::<f64>() / relevant.min(100.0),
    );
    all
}

/// A query's ranking as it is saved.
struct Saved<'a> {
    query: &'a str,
    judged: &'a Value,
    ranking: &'a Value,
}

impl Saved<'_> {
    fn scored(&self) -> Vec<(&str, f64)> {
        let pairs = list(&self.ranking["ranked"]).iter();
        pairs
            .map(|pair| (text(&pair[0]), number(&pair[1])))
            .collect()
    }

    fn metrics(&self, documents: &[&str]) -> BTreeMap<String, f64> {
        let grade = |document: &&str| {
            self.judged
                .get(*document)
                .map_or(0, |g| g.as_i64().unwrap())
        };
        let judged = self.judged.as_object().unwrap().values();
        let judged: Vec<i64> = judged.map(|grade| grade.as_i64().unwrap()).collect();
        metrics_of(&documents.iter().map(grade).collect::<Vec<_>>(), &judged)
    }

    fn all(&self) -> BTreeMap<String, f64> {
        let ranked = self.scored();
        assert!(
            ranked.windows(2).all(|pair| pair[0].1 >= pair[1].1),
            "best first"
        );
        self.metrics(&ranked.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    }

    fn has_own(&self) -> bool {
        self.scored().iter().any(|(id, _)| *id == self.query)
    }

    /// Without the query's own document, the one that was saved for its place put where its score belongs.
    fn without_own(&self) -> BTreeMap<String, f64> {
        let mut ranked = self.scored();
        ranked.retain(|(id, _)| *id != self.query);
        if let Some(next) = self.ranking.get("next") {
            ranked.push((text(&next[0]), number(&next[1])));
            ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        }
        self.metrics(&ranked.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    }
}

#[track_caller]
fn same_metrics(what: &str, got: &Value, want: &BTreeMap<String, f64>) {
    assert_eq!(got.as_object().unwrap().len(), want.len(), "{what}");
    for (name, &value) in want {
        same(&format!("{what}, {name}"), &got[name], value);
    }
}

fn mean_of(all: &[BTreeMap<String, f64>]) -> BTreeMap<String, f64> {
    let of = |name: &String| mean(&all.iter().map(|one| one[name]).collect::<Vec<_>>());
    all[0].keys().map(|name| (name.clone(), of(name))).collect()
}

/// Holds means over queries to the rankings, with the queries' own documents and without; returns nDCG@10 by query.
#[track_caller]
fn hold_rankings(what: &str, saved: &[Saved<'_>], mean: &Value, without: &Value) -> Vec<f64> {
    let all: Vec<_> = saved.iter().map(Saved::all).collect();
    same_metrics(what, mean, &mean_of(&all));
    if saved.iter().any(Saved::has_own) {
        let all: Vec<_> = saved.iter().map(Saved::without_own).collect();
        same_metrics(&format!("{what}, without own"), without, &mean_of(&all));
    } else {
        assert!(without.is_null(), "{what}: {without}");
    }
    all.iter().map(|metrics| metrics["ndcg@10"]).collect()
}

/// A collection of 130 documents, to which six queries belong whose ids are those of documents.
fn collection(s: &Scratch) {
    let nouns = ["dog", "cat", "man", "bird", "child", "tree"];
    let verbs = ["sees", "bites", "finds", "follows"];
    let text = |i: usize| {
        let [a, b] = [i % 6, i / 6 % 6].map(|i| nouns[i]);
        format!(
            "the {a} {} the {b} {}",
            verbs[i / 36 % 4],
            ["", "again", "by the river"][i % 3]
        )
    };
    let documents = (0..130).map(|i| format!("{{\"_id\": \"d{i}\", \"text\": \"{}\"}}\n", text(i)));
    s.put("set/corpus.jsonl", &documents.collect::<String>());
    let queries = (0..6).map(|i| {
        format!(
            "{{\"_id\": \"d{}\", \"text\": \"{}\"}}\n",
            7 * i,
            text(7 * i)
        )
    });
    s.put("set/queries.jsonl", &queries.collect::<String>());
    let judged = (0..6).flat_map(|i| {
        (0..10).map(move |j| {
            format!(
                "d{}\td{}\t{}\n",
                7 * i,
                (7 * i + 13 * j * j + 5) % 130,
                j % 3
            )
        })
    });
    let judged: BTreeSet<String> = judged.collect();
    let mut pairs = BTreeSet::new();
    let once = judged.into_iter().filter(|line| {
        let mut fields = line.split('\t');
        pairs.insert((
            fields.next().map(str::to_string),
            fields.next().map(str::to_string),
        ))
    });
    let head = "query-id\tcorpus-id\tscore\n".to_string();
    s.put("set/qrels/test.tsv", &(head + &once.collect::<String>()));
}

#[test]
fn rankings_give_the_metrics_of_retrieval() {
    let s = Scratch::new();
    collection(&s);
    let folder = s.run("retrieve", "tiny-bert-2x64", &["--data", "set"]);
    let (found, rows) = (
        json(folder.join("metrics.json")),
        lines(folder.join("per_query.jsonl")),
    );
    assert_eq!(rows.len(), 6);
    let saved = |of: &dyn Fn(&'static Value) -> &'static Value| -> Vec<Saved<'static>> {
        let rows: &'static Vec<Value> = Box::leak(Box::new(rows.clone()));
        let one = |row: &'static Value| Saved {
            query: text(&row["query"]),
            judged: &row["judged"],
            ranking: of(row),
        };
        rows.iter().map(one).collect()
    };
    let first = saved(&|row| row);
    assert!(
        first.iter().all(Saved::has_own) && first.iter().all(|s| s.ranking.get("next").is_some())
    );
    for (saved, row) in first.iter().zip(&rows) {
        assert_eq!(saved.scored().len(), 100, "exactly the depth");
        same_metrics("a query", &row["metrics"], &saved.all());
    }
    let before = hold_rankings(
        "cosine",
        &first,
        &found["cosine"],
        &found["cosine_without_identical_ids"],
    );
    let documents = |saved: &Saved<'_>| -> BTreeSet<String> {
        saved
            .scored()
            .iter()
            .map(|(id, _)| id.to_string())
            .collect()
    };
    assert_eq!(list(&found["reranked"]).len(), 4);
    for of_verifier in list(&found["reranked"]) {
        let name = text(&of_verifier["verifier"]).to_string();
        let again = saved(&|row| &row["reranked"][&name]);
        for ((saved, first), row) in again.iter().zip(&first).zip(&rows) {
            assert_eq!(
                documents(saved),
                documents(first),
                "the first stage's hundred, and no other"
            );
            assert_eq!(saved.ranking["next"][0], first.ranking["next"][0]);
            same_metrics("a query", &row["reranked"][&name]["metrics"], &saved.all());
        }
        let after = hold_rankings(
            &name,
            &again,
            &of_verifier["metrics"],
            &of_verifier["metrics_without_identical_ids"],
        );
        same(
            "the change",
            &of_verifier["change"]["ndcg@10"],
            mean(&after) - mean(&before),
        );
    }
    // Re-ranking a hundred cannot change what is among them.
    for of_verifier in list(&found["reranked"]) {
        assert_eq!(
            of_verifier["metrics"]["recall@100"],
            found["cosine"]["recall@100"]
        );
    }
    assert_eq!(found["candidates_scored"], 6 * 101);
}

// Pairs.

/// A pair with its score, as it is saved.
#[derive(Clone)]
struct Pair {
    anchor: String,
    kind: String,
    category: String,
    source: String,
    test: bool,
    part: u64,
    size: f64,
    score: f64,
}

impl Pair {
    fn accept(&self) -> bool {
        ["paraphrase", "synonym", "function"].contains(&&self.kind[..])
    }

    fn near_miss(&self) -> bool {
        self.kind == "near_miss"
    }
}

/// The pairs among rows, with what `score` says of them.
fn pairs_of<'a>(
    rows: impl IntoIterator<Item = &'a Value>,
    score: &dyn Fn(&Value) -> f64,
) -> Vec<Pair> {
    let pair = |row: &Value| Pair {
        anchor: text(&row["anchor"]).into(),
        kind: text(&row["kind"]).into(),
        category: text(&row["category"]).into(),
        source: text(&row["source"]).into(),
        test: row["split"] == "test",
        part: row["part"].as_u64().unwrap(),
        size: number(&row["edit_size"]),
        score: score(row),
    };
    rows.into_iter().map(pair).collect()
}

/// Those of the calibration half and of one test set.
fn in_part(pairs: &[Pair], part: u64) -> Vec<Pair> {
    let kept = pairs.iter().filter(|pair| !pair.test || pair.part == part);
    kept.cloned().collect()
}

fn scores<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Vec<f64> {
    pairs.into_iter().map(|pair| pair.score).collect()
}

/// Every accept against every near-miss.
fn auc(accepts: &[f64], rejects: &[f64]) -> f64 {
    let mut won = 0.0;
    for a in accepts {
        for r in rejects {
            won += if a > r {
                1.0
            } else if a == r {
                0.5
            } else {
                0.0
            };
        }
    }
    won / (accepts.len() * rejects.len()) as f64
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
    sorted
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at as usize], sorted[at.ceil() as usize]);
    below + (above - below) * (at - at.floor())
}

fn below(values: &[f64], limit: f64) -> f64 {
    values.iter().filter(|&&v| v < limit).count() as f64 / values.len() as f64
}

/// The thresholds for 90, 95 and 99 % of the calibration half's accepts.
fn thresholds(pairs: &[Pair]) -> [f64; 3] {
    let accepts = sorted(&scores(pairs.iter().filter(|p| p.accept() && !p.test)));
    // Whole hundredths, so that no rounding of 1 - 0.95 has a say.
    [10, 5, 1].map(|percent| accepts[percent * accepts.len() / 100])
}

/// The share of rejects let in where it meets that of accepts kept out, on the line between two thresholds.
fn equal_error(accepts: &[f64], rejects: &[f64]) -> f64 {
    let both: Vec<f64> = accepts.iter().chain(rejects).copied().collect();
    let mut limits = sorted(&both);
    limits.dedup();
    let mut before = (0.0, 1.0);
    for limit in limits.into_iter().rev() {
        let now = (1.0 - below(rejects, limit), below(accepts, limit));
        if now.0 >= now.1 {
            let (far, near) = (before.1 - before.0, now.0 - now.1);
            return before.0 + far / (far + near) * (now.0 - before.0);
        }
        before = now;
    }
    panic!("at the lowest everything is let in")
}

fn average_precision(accepts: &[f64], rejects: &[f64]) -> f64 {
    let at_least =
        |values: &[f64], limit: f64| values.iter().filter(|&&v| v >= limit).count() as f64;
    let each = accepts.iter().map(|&limit| {
        let hits = at_least(accepts, limit);
        hits / (hits + at_least(rejects, limit))
    });
    each.sum::<f64>() / accepts.len() as f64
}

/// Of every near-miss whose anchor has accepts: the mean score of its paraphrases, or else of its other accepts, less its own.
fn margins(near_misses: &[&Pair], accepts: &[&Pair]) -> Vec<f64> {
    let margin = |near_miss: &&Pair| {
        let own: Vec<&&Pair> = accepts
            .iter()
            .filter(|a| a.anchor == near_miss.anchor)
            .collect();
        let paraphrases: Vec<f64> = own
            .iter()
            .filter(|a| a.kind == "paraphrase")
            .map(|a| a.score)
            .collect();
        let own = match paraphrases.is_empty() {
            true => own.iter().map(|a| a.score).collect(),
            false => paraphrases,
        };
        (!own.is_empty()).then(|| mean(&own) - near_miss.score)
    };
    near_misses.iter().filter_map(margin).collect()
}

/// Near-misses of a category (of all: none) and the accepts that they are judged against, by what the report says of these.
fn sides<'a>(pairs: &'a [Pair], report: &Value) -> [Vec<&'a Pair>; 2] {
    let category = text(&report["category"]);
    let wanted =
        |pair: &&Pair| pair.near_miss() && (category == "all" || pair.category == category);
    let near_misses: Vec<&Pair> = pairs.iter().filter(wanted).collect();
    let accepts = pairs.iter().filter(|pair| pair.accept());
    let accepts: Vec<&Pair> = match text(&report["basis"]) {
        "all_sources" => accepts.collect(),
        "same_sources" => accepts
            .filter(|a| near_misses.iter().any(|n| n.source == a.source))
            .collect(),
        _ => accepts
            .filter(|a| near_misses.iter().any(|n| n.anchor == a.anchor))
            .collect(),
    };
    [near_misses, accepts]
}

fn tested(pairs: &[&Pair]) -> Vec<f64> {
    pairs
        .iter()
        .filter(|pair| pair.test)
        .map(|pair| pair.score)
        .collect()
}

/// Holds what is said of a category to the pairs; how many numbers of the test half were there.
fn hold_category(
    what: &str,
    report: &Value,
    pairs: &[Pair],
    limits: [f64; 3],
    cosine: bool,
) -> usize {
    let what = format!("{what}, {}", text(&report["category"]));
    let [near_misses, accepts] = sides(pairs, report);
    same_summary(
        &what,
        &report["near_misses"],
        &near_misses.iter().map(|p| p.score).collect::<Vec<_>>(),
    );
    same_summary(
        &what,
        &report["accepts"],
        &accepts.iter().map(|p| p.score).collect::<Vec<_>>(),
    );
    let apart = &report["separation"];
    if apart.get("refused").is_some() {
        return 0;
    }
    let (n, a) = (tested(&near_misses), tested(&accepts));
    assert_eq!(
        (&apart["near_misses"], &apart["accepts"]),
        (&n.len().into(), &a.len().into()),
        "{what}"
    );
    same(&what, &apart["auc"]["value"], auc(&a, &n));
    same(
        &what,
        &apart["average_precision"],
        average_precision(&a, &n),
    );
    same(&what, &apart["equal_error_rate"], equal_error(&a, &n));
    let spread = ((deviation(&a).powi(2) + deviation(&n).powi(2)) / 2.0).sqrt();
    let d_prime = (mean(&a) - mean(&n)) / spread;
    // Off by what the spread is off, which it is divided by.
    if spread > 1e-3 {
        assert!(
            (number(&apart["d_prime"]) - d_prime).abs() <= 1e-6 * d_prime.abs().max(1.0),
            "{what}"
        );
    }
    for (point, limit) in list(&apart["rejection"]).iter().zip(limits) {
        same(&what, &point["threshold"], limit);
        same(&what, &point["rejection"]["value"], below(&n, limit));
        same(&what, &point["true_accept"], 1.0 - below(&a, limit));
    }
    let test = |pairs: &[&'_ Pair]| -> Vec<Pair> {
        pairs
            .iter()
            .filter(|p| p.test)
            .map(|&p| p.clone())
            .collect()
    };
    let (n_pairs, a_pairs) = (test(&near_misses), test(&accepts));
    let own = margins(
        &n_pairs.iter().collect::<Vec<_>>(),
        &a_pairs.iter().collect::<Vec<_>>(),
    );
    assert_eq!(apart["margins"]["n"], own.len(), "{what}");
    same(&what, &apart["margins"]["mean"]["value"], mean(&own));
    same(&what, &apart["margins"]["median"], quantile(&own, 0.5));
    same(&what, &apart["margins"]["p05"], quantile(&own, 0.05));
    let share = |holds: &dyn Fn(&f64) -> bool| {
        own.iter().filter(|m| holds(m)).count() as f64 / own.len() as f64
    };
    same(
        &what,
        &apart["margins"]["triplet_error"],
        share(&|&m| m <= 0.0),
    );
    same(&what, &apart["anchor_accuracy"], share(&|&m| m > 0.0));
    if cosine {
        for (point, limit) in list(&apart["fixed"]).iter().zip([0.85, 0.90, 0.95]) {
            same(&what, &point["false_accept"], 1.0 - below(&n, limit));
            same(&what, &point["false_reject"], below(&a, limit));
        }
    }
    n.len()
}

/// Holds an evaluation to its pairs.
fn hold_evaluation(what: &str, found: &Value, pairs: &[Pair], cosine: bool) {
    let limits = thresholds(pairs);
    for (got, want) in list(&found["thresholds"]).iter().zip(limits) {
        same(what, got, want);
    }
    assert!(
        hold_category(what, &found["all"], pairs, limits, cosine) > 0,
        "{what}"
    );
    let categories = list(&found["categories"]);
    let names: BTreeSet<&str> = pairs
        .iter()
        .filter(|p| p.near_miss())
        .map(|p| &p.category[..])
        .collect();
    assert!(
        categories.iter().map(|c| text(&c["category"])).eq(names),
        "{what}"
    );
    let mut aucs = Vec::new();
    for category in categories {
        if hold_category(what, category, pairs, limits, cosine) > 0 {
            aucs.push(number(&category["separation"]["auc"]["value"]));
        }
    }
    let averages = &found["macro_average"];
    let means: Vec<f64> = categories
        .iter()
        .map(|c| number(&c["near_misses"]["mean"]))
        .collect();
    same(what, &averages["near_miss_mean"], mean(&means));
    same_or_none(
        what,
        &averages["auc"],
        (!aucs.is_empty()).then(|| mean(&aucs)),
    );
    for source in list(&found["sources"]) {
        let here = |p: &&Pair| source["source"] == p.source[..] && p.test;
        let n = scores(pairs.iter().filter(|p| p.near_miss() && here(p)));
        let a = scores(pairs.iter().filter(|p| p.accept() && here(p)));
        assert_eq!(
            (&source["near_misses"][1], &source["accepts"][1]),
            (&n.len().into(), &a.len().into())
        );
        if source["auc"].is_number() {
            same(what, &source["auc"], auc(&a, &n));
        }
        if source["rejection_95"].is_number() {
            same(what, &source["rejection_95"], below(&n, limits[1]));
        }
    }
}

/// A number of pairs, of whose test halves it is given the near-misses' scores and the accepts'.
type Of<'a> = &'a dyn Fn(&[Pair], &[f64], &[f64]) -> f64;

/// Holds what changed from some scorings of pairs to others, the first beside the first and so on.
fn hold_changes(
    what: &str,
    changes: &Value,
    before: &[Vec<Pair>],
    after: &[Vec<Pair>],
    basis: &Value,
) {
    let reports = list(&basis["categories"]).iter().chain([&basis["all"]]);
    for (change, report) in list(changes).iter().zip(reports) {
        assert_eq!(change["category"], report["category"], "{what}");
        let what = format!("{what}, {}", text(&change["category"]));
        let runs = before.len().max(after.len());
        let mut differences = Vec::new();
        for run in 0..runs {
            let [n, _] = sides(&before[run % before.len()], report);
            let [m, _] = sides(&after[run % after.len()], report);
            differences.extend(n.iter().zip(m).map(|(n, m)| m.score - n.score));
        }
        same_summary(&what, &change["difference"], &differences);
        let share = |holds: &dyn Fn(f64) -> bool| {
            differences.iter().filter(|&&d| holds(d)).count() as f64 / differences.len() as f64
        };
        same(&what, &change["lower"], share(&|d| d < -0.01));
        same(&what, &change["higher"], share(&|d| d > 0.01));
        let of = |runs: &[Vec<Pair>], number: Of<'_>| {
            let each = runs.iter().map(|pairs| {
                let [n, a] = sides(pairs, report).map(|side| tested(&side));
                number(pairs, &n, &a)
            });
            mean(&each.collect::<Vec<_>>())
        };
        let differ = |number: Of<'_>| of(after, number) - of(before, number);
        if change["auc"].get("refused").is_none() {
            same(&what, &change["auc"]["value"], differ(&|_, n, a| auc(a, n)));
        }
        if let Some(rejection) = change["rejection"].as_array() {
            for (i, point) in rejection.iter().enumerate() {
                same(
                    &what,
                    &point["value"],
                    differ(&|pairs, n, _| below(n, thresholds(pairs)[i])),
                );
            }
        }
        if change["margin"].is_object() {
            let margin = |pairs: &[Pair], _: &[f64], _: &[f64]| {
                let test: Vec<Pair> = pairs.iter().filter(|p| p.test).cloned().collect();
                let [n, a] = sides(&test, report);
                mean(&margins(&n, &a))
            };
            same(&what, &change["margin"]["value"], differ(&margin));
        }
        if let Some(flips) = change["flips"].as_array() {
            let rejected = |pairs: &[Pair]| -> Vec<bool> {
                let [n, _] = sides(pairs, report);
                tested(&n)
                    .iter()
                    .map(|&score| score < thresholds(pairs)[1])
                    .collect()
            };
            let [x, y] = [rejected(&before[0]), rejected(&after[0])];
            let only =
                |x: &[bool], y: &[bool]| x.iter().zip(y).filter(|(x, y)| **x && !**y).count();
            assert_eq!(
                (&flips[0], &flips[1]),
                (&only(&x, &y).into(), &only(&y, &x).into()),
                "{what}"
            );
        }
    }
}

const SMALL: [&str; 6] = ["--preset", "smoke", "--resamples", "50", "--minimum", "5"];

#[test]
fn scores_of_pairs_give_the_numbers_of_near_misses() {
    let s = Scratch::new();
    let row =
        |i: usize| format!("who sees {i} birds?,the cat sees {i} birds,{i} birds see the cat\n");
    let rows: String = (0..12).map(row).collect();
    s.put("triplets.csv", &format!("anchor,positive,negative\n{rows}"));
    let more = [
        &SMALL[..],
        &[
            "--triplets",
            "triplets.csv",
            "--triplet-sample",
            "9",
            "--folds",
            "3",
        ],
    ]
    .concat();
    let folder = s.run("near-miss", "tiny-bert-2x64", &more);
    let (found, rows) = (
        json(folder.join("metrics.json")),
        lines(folder.join("pairs.jsonl")),
    );
    let (pairs, triplets): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row.get("kind").is_some());
    for scorer in list(&found["scorers"]) {
        let name = text(&scorer["name"]);
        let all = pairs_of(pairs.iter().copied(), &|row| number(&row["scores"][name]));
        let cosine = ["pooled", "none"].contains(&name);
        hold_evaluation(name, &scorer["evaluation"], &in_part(&all, 0), cosine);
        for (part, further) in list(&scorer["further"]).iter().enumerate() {
            hold_evaluation(name, &further[1], &in_part(&all, part as u64 + 1), cosine);
        }
        // Rates of folds lie within what every pair could make of them; their thresholds are near the halves'.
        let points = list(&scorer["cross_fitted"]["points"]);
        let judged = in_part(&all, 0);
        assert_eq!(
            scorer["cross_fitted"]["accepts"],
            judged.iter().filter(|p| p.accept()).count()
        );
        assert_eq!(
            scorer["cross_fitted"]["near_misses"],
            judged.iter().filter(|p| p.near_miss()).count()
        );
        let rejects = scores(judged.iter().filter(|p| p.near_miss()));
        for point in points.iter().filter(|point| point.get("refused").is_none()) {
            let limits: Vec<f64> = list(&point["thresholds"]).iter().map(number).collect();
            assert_eq!(limits.len(), 3);
            let (low, high) = (quantile(&limits, 0.0), quantile(&limits, 1.0));
            let rate = number(&point["rejection"]["value"]);
            assert!(
                below(&rejects, low) <= rate && rate <= below(&rejects, high),
                "{name}"
            );
        }
        if let Some(angles) = scorer["displacement"]
            .as_array()
            .and_then(|all| all.first())
        {
            let degrees = |kind: &str| {
                let of_kind = judged.iter().filter(|p| p.kind == kind);
                let angle = |p: &Pair| p.score.clamp(-1.0, 1.0).acos().to_degrees();
                quantile(&of_kind.map(angle).collect::<Vec<_>>(), 0.5)
            };
            assert_eq!(angles[0], "all");
            let found = &angles[1];
            for (field, kind) in [
                ("near_miss", "near_miss"),
                ("paraphrase", "paraphrase"),
                ("unrelated", "unrelated"),
            ] {
                same(name, &found[field], degrees(kind));
            }
            same(
                name,
                &found["d"],
                degrees("near_miss") / degrees("unrelated"),
            );
        }
    }
    assert_eq!(triplets.len(), 9);
    let side = |i: usize| -> Vec<f64> {
        triplets
            .iter()
            .map(|row| number(&row["cosines"][i]))
            .collect()
    };
    let comparison = &found["comparison"];
    same_summary("positives", &comparison["positives"], &side(0));
    same_summary("negatives", &comparison["negatives"], &side(1));
    same(
        "separation",
        &comparison["separation"],
        mean(&side(0)) - mean(&side(1)),
    );
    let pooled = pairs_of(pairs.iter().copied(), &|row| {
        number(&row["scores"]["pooled"])
    });
    let near_misses = scores(in_part(&pooled, 0).iter().filter(|p| p.near_miss()));
    same(
        "hardness",
        &comparison["hardness"],
        mean(&near_misses) - mean(&side(1)),
    );
    assert!(triplets.iter().all(|row| list(&row["triplet"]).len() == 3));
}

/// The rows of an experiment: queries by collection, pairs by set, held-out rows.
struct Measured {
    queries: BTreeMap<String, Vec<Value>>,
    pairs: BTreeMap<String, Vec<Value>>,
    held_out: Vec<Value>,
}

impl Measured {
    fn read(folder: &Path) -> Self {
        let mut found = Measured {
            queries: BTreeMap::new(),
            pairs: BTreeMap::new(),
            held_out: Vec::new(),
        };
        for row in lines(folder.join("measured.jsonl")) {
            if let Some(name) = row["collection"].as_str() {
                found.queries.entry(name.into()).or_default().push(row);
            } else if let Some(name) = row["set"].as_str() {
                found.pairs.entry(name.into()).or_default().push(row);
            } else {
                found.held_out.push(row);
            }
        }
        found
    }

    fn rankings<'a>(
        &'a self,
        collection: &str,
        of: &dyn Fn(&'a Value) -> &'a Value,
    ) -> Vec<Saved<'a>> {
        let one = |row: &'a Value| Saved {
            query: text(&row["query"]),
            judged: &row["judged"],
            ranking: of(&row["rankings"]),
        };
        self.queries[collection].iter().map(one).collect()
    }
}

#[test]
fn what_is_saved_of_experiment_1_gives_its_numbers() {
    let s = Scratch::new();
    let more = [&SMALL[..], &["--arms", "A,B", "--seeds", "1,2"]].concat();
    let folder = s.run("experiment-1", "tiny-bert-2x64", &more);
    let (found, saved) = (json(folder.join("metrics.json")), Measured::read(&folder));
    let models = list(&found["models"]);
    assert_eq!(models.len(), 5);
    // Rankings, nDCG@10 by model, collection and query.
    let mut ndcg: Vec<Vec<Vec<f64>>> = Vec::new();
    for model in models {
        let name = text(&model["model"]);
        let sets = list(&model["retrieval"]).iter().map(|set| {
            let rankings = saved.rankings(text(&set["collection"]), &|of| &of[name]);
            assert_eq!(set["queries"], rankings.len());
            hold_rankings(
                name,
                &rankings,
                &set["metrics"],
                &set["metrics_without_identical_ids"],
            )
        });
        ndcg.push(sets.collect());
        // The training domain.
        let side = |i: usize| -> Vec<f64> {
            saved
                .held_out
                .iter()
                .map(|row| number(&row["cosines"][name][i]))
                .collect()
        };
        let held_out = &model["held_out"];
        assert!(held_out["n"] == saved.held_out.len() && !saved.held_out.is_empty());
        for (field, i) in [("positives", 0), ("negatives", 1)] {
            same(name, &held_out[field][0], mean(&side(i)));
            same(name, &held_out[field][1], deviation(&side(i)));
        }
    }
    let comparisons = &found["comparisons"];
    let group = |name: &Value| -> Vec<usize> {
        let groups = list(&comparisons["groups"]).iter();
        let group = groups
            .clone()
            .find(|group| group["name"] == *name)
            .expect("a group");
        list(&group["models"])
            .iter()
            .map(|i| i.as_u64().unwrap() as usize)
            .collect()
    };
    let sets = ndcg[0].len();
    for change in list(&comparisons["retrieval"]) {
        let of = |name: &Value, set: usize| {
            let models = group(name);
            mean(
                &models
                    .iter()
                    .map(|&i| mean(&ndcg[i][set]))
                    .collect::<Vec<_>>(),
            )
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for set in 0..sets {
            before.push(of(&change["before"], set));
            after.push(of(&change["after"], set));
            same(
                "a set",
                &change["sets"][set]["value"],
                after[set] - before[set],
            );
        }
        let all = &change["means"][0];
        assert_eq!(all["over"], "all");
        same(
            "the mean",
            &all["absolute"]["value"],
            mean(&after) - mean(&before),
        );
        same(
            "in percent",
            &all["relative"]["value"],
            100.0 * (mean(&after) - mean(&before)) / mean(&before),
        );
    }
    // Pairs.
    let of_model = |set: &str, model: usize, part: u64| {
        let name = text(&models[model]["model"]);
        let all = pairs_of(&saved.pairs[set], &|row| number(&row["scores"][name]));
        in_part(&all, part)
    };
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for (t, test) in list(&comparisons["tests"]).iter().enumerate() {
        let (set, _) = text(&test["name"]).rsplit_once(", ").unwrap();
        let place = places.entry(set.into()).or_default();
        let part = *place;
        *place += 1;
        let pairs: Vec<Vec<Pair>> = (0..models.len()).map(|i| of_model(set, i, part)).collect();
        for (i, evaluation) in list(&test["evaluations"]).iter().enumerate() {
            hold_evaluation(text(&test["name"]), evaluation, &pairs[i], true);
            let limit = thresholds(&pairs[0])[1];
            let of = |accepts: bool| {
                let kept = pairs[i]
                    .iter()
                    .filter(|p| p.test && if accepts { p.accept() } else { p.near_miss() });
                scores(kept)
            };
            same(
                "transferred",
                &test["transferred"][i]["rejection"],
                below(&of(false), limit),
            );
            same(
                "transferred",
                &test["transferred"][i]["true_accept"],
                1.0 - below(&of(true), limit),
            );
        }
        for change in list(&test["changes"]) {
            let runs = |name: &Value| -> Vec<Vec<Pair>> {
                group(name).iter().map(|&i| pairs[i].clone()).collect()
            };
            let basis = &test["evaluations"][0];
            hold_changes(
                "a change",
                &change["changes"],
                &runs(&change["before"]),
                &runs(&change["after"]),
                basis,
            );
        }
        for (i, point) in list(&comparisons["trade_off"]).iter().enumerate() {
            let n = scores(pairs[i].iter().filter(|p| p.test && p.near_miss()));
            let a = scores(pairs[i].iter().filter(|p| p.test && p.accept()));
            same("the trade-off", &point["auc"][t], auc(&a, &n));
            same(
                "the trade-off",
                &point["rejection"][t],
                below(&n, thresholds(&pairs[i])[1]),
            );
            let means: Vec<f64> = ndcg[i].iter().map(|set| mean(set)).collect();
            same("the trade-off", &point["ndcg"], mean(&means));
        }
    }
}

/// Areas of a semantic cache: precision against hit ratio, precision against recall.
fn cache_areas(accepts: &[f64], rejects: &[f64]) -> [f64; 2] {
    let both: Vec<f64> = accepts.iter().chain(rejects).copied().collect();
    let mut limits = sorted(&both);
    limits.dedup();
    let at_least =
        |values: &[f64], limit: f64| values.iter().filter(|&&v| v >= limit).count() as f64;
    let mut points = Vec::new();
    for limit in limits.into_iter().rev() {
        let (right, hits) = (at_least(accepts, limit), at_least(&both, limit));
        points.push([
            hits / both.len() as f64,
            right / accepts.len() as f64,
            right / hits,
        ]);
    }
    let area = |points: &[[f64; 3]], axis: usize| -> f64 {
        let strips = points.windows(2);
        strips
            .map(|two| (two[1][axis] - two[0][axis]) * (two[1][2] + two[0][2]) / 2.0)
            .sum()
    };
    let hit_ratio = area(&points, 0);
    points.insert(0, [0.0, 0.0, 1.0]);
    [hit_ratio, area(&points, 1)]
}

/// Paraphrases further from their anchors than half of all, and near-misses nearer than half of these.
fn hold_hard(what: &str, found: &Value, pairs: &[Pair]) {
    let kinds = ["paraphrase", "near_miss"];
    let of = |kind: &str| -> Vec<&Pair> { pairs.iter().filter(|p| p.kind == kind).collect() };
    let medians =
        kinds.map(|kind| quantile(&of(kind).iter().map(|p| p.size).collect::<Vec<_>>(), 0.5));
    let accepts = of(kinds[0])
        .into_iter()
        .filter(|p| p.test && p.size > medians[0]);
    let near_misses = of(kinds[1])
        .into_iter()
        .filter(|p| p.test && p.size < medians[1]);
    let (a, n) = (scores(accepts), scores(near_misses));
    same(what, &found["medians"][0], medians[0]);
    same(what, &found["medians"][1], medians[1]);
    assert_eq!(
        (&found["accepts"], &found["near_misses"]),
        (&a.len().into(), &n.len().into()),
        "{what}"
    );
    if found["auc"].is_number() {
        let limit = thresholds(pairs)[1];
        same(what, &found["auc"], auc(&a, &n));
        same(what, &found["true_accept"], 1.0 - below(&a, limit));
        same(what, &found["rejection"], below(&n, limit));
    }
}

#[test]
fn what_is_saved_of_experiment_2_gives_its_numbers() {
    let s = Scratch::new();
    let more = [
        &SMALL[..],
        &[
            "--verifiers",
            "f1,f4",
            "--training",
            "frozen",
            "--seeds",
            "1,2",
        ],
    ]
    .concat();
    let folder = s.run("experiment-2", "tiny-bert-3x96", &more);
    let (found, saved) = (json(folder.join("metrics.json")), Measured::read(&folder));
    let comparisons = &found["comparisons"];
    let scorings = list(&comparisons["scorings"]);
    let models_of = |scoring: &Value| list(&scoring["models"]).len();
    assert!(scorings.len() >= 4 && scorings.iter().any(|scoring| models_of(scoring) == 2));
    // Rankings: nDCG@10 by scoring, model, collection and query.
    let mut ndcg: BTreeMap<&str, Vec<Vec<Vec<f64>>>> = BTreeMap::new();
    for ranking in list(&found["rankings"]) {
        let name = text(&ranking["scorer"]);
        let models = ndcg.entry(name).or_default();
        let place = models.len();
        let sets = list(&ranking["sets"]).iter().map(|set| {
            let rankings = saved.rankings(text(&set["collection"]), &|of| &of[name][place]);
            hold_rankings(
                name,
                &rankings,
                &set["metrics"],
                &set["metrics_without_identical_ids"],
            )
        });
        models.push(sets.collect());
    }
    for kind in ["reranking", "encoders"] {
        for change in list(&comparisons[kind]) {
            for (set, got) in list(&change["sets"]).iter().enumerate() {
                let of = |name: &Value| {
                    let models = ndcg[text(name)].iter();
                    mean(&models.map(|model| mean(&model[set])).collect::<Vec<_>>())
                };
                same(
                    kind,
                    &got["value"],
                    of(&change["after"]) - of(&change["before"]),
                );
            }
        }
    }
    assert!(!list(&comparisons["reranking"]).is_empty());
    // Pairs.
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for test in list(&comparisons["tests"]) {
        let (set, _) = text(&test["name"]).rsplit_once(", ").unwrap();
        let place = places.entry(set.into()).or_default();
        let part = *place;
        *place += 1;
        let mut all: BTreeMap<&str, Vec<Vec<Pair>>> = BTreeMap::new();
        let mut basis = None;
        for (scoring, found) in scorings.iter().zip(list(&test["scorings"])) {
            let name = text(&scoring["name"]);
            for (run, evaluation) in list(&found["evaluations"]).iter().enumerate() {
                let pairs = pairs_of(&saved.pairs[set], &|row| number(&row["scores"][name][run]));
                let pairs = in_part(&pairs, part);
                hold_evaluation(name, evaluation, &pairs, scoring["cosine"] == true);
                hold_hard(name, &found["hard"][run], &pairs);
                let n = scores(pairs.iter().filter(|p| p.test && p.near_miss()));
                let a = scores(pairs.iter().filter(|p| p.test && p.accept()));
                let [hit_ratio, recall] = cache_areas(&a, &n);
                same(name, &found["cache"][run]["p_chr_auc"], hit_ratio);
                same(name, &found["cache"][run]["pr_auc"], recall);
                all.entry(name).or_default().push(pairs);
                basis.get_or_insert(evaluation);
            }
        }
        for change in list(&test["changes"]) {
            let [before, after] = ["before", "after"].map(|side| &all[text(&change[side])][..]);
            hold_changes(
                "a change",
                &change["changes"],
                before,
                after,
                basis.expect("an evaluation"),
            );
        }
    }
}
