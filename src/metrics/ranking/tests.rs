use super::*;

/// Unit roundoff of f64.
const U: f64 = 1.0 / (1u64 << 53) as f64;

const T: bool = true;
const F: bool = false;

#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance,
        "got {got:e}, expected {expected:e}, tolerance {tolerance:e}"
    );
}

#[test]
fn relevant_at_two_and_five_of_three() {
    let rel = [F, T, F, F, T, F, F, F, F, F, F];
    // (1/log2 3 + 1/log2 6) / (1/log2 2 + 1/log2 3 + 1/log2 4), written with ten decimals.
    close(ndcg_at_k(&rel, 3, 10), 0.4776237035, 0.5e-10);
    assert_eq!(mrr_at_k(&rel, 10), 0.5);
    assert_eq!(recall_at_k(&rel, 3, 10), 2.0 / 3.0);
    // (1/2 + 2/5) / 3
    close(average_precision_at_k(&rel, 3, 100), 0.3, 4.0 * U);
    assert_eq!(
        [1, 2, 3, 5].map(|k| accuracy_at_k(&rel, k)),
        [0.0, 1.0, 1.0, 1.0]
    );
    assert_eq!(
        [1, 2, 5, 10].map(|k| precision_at_k(&rel, k)),
        [0.0, 0.5, 0.4, 0.2]
    );
}

#[test]
fn cut_off_is_inclusive() {
    let mut rel = [F; 11];
    rel[9] = T;
    assert_eq!(mrr_at_k(&rel, 10), 0.1);
    assert_eq!(mrr_at_k(&rel, 9), 0.0);
    assert_eq!(accuracy_at_k(&rel, 9), 0.0);
    close(ndcg_at_k(&rel, 1, 10), 1.0 / 11f64.log2(), U);
    assert_eq!(ndcg_at_k(&rel, 1, 9), 0.0);
}

#[test]
fn a_perfect_ranking_scores_one_whether_short_or_cut() {
    for (length, n_relevant, k) in [(1, 1, 10), (3, 3, 10), (10, 10, 10), (20, 40, 10)] {
        let rel = vec![T; length];
        assert_eq!(ndcg_at_k(&rel, n_relevant, k), 1.0);
        assert_eq!(average_precision_at_k(&rel, n_relevant, k), 1.0);
    }
    // Precision keeps its divisor when the ranking is short.
    assert_eq!(precision_at_k(&[T], 10), 0.1);
    assert_eq!(recall_at_k(&[T; 20], 40, 10), 0.25);
}

#[test]
fn average_precision_divides_by_the_smaller_of_k_and_r() {
    // Hits at 1 and 3: 1 + 2/3; R = 4. At k = 3 the divisor is 3, at k = 10 it is 4.
    let rel = [T, F, T];
    close(average_precision_at_k(&rel, 4, 3), 5.0 / 9.0, 4.0 * U);
    close(average_precision_at_k(&rel, 4, 10), 5.0 / 12.0, 4.0 * U);
}

#[test]
fn graded_gain_is_linear_and_ideal_is_from_all_judged() {
    // Ranked grades 1, 3, 0 of judged 3, 2, 1, 0, -1.
    let dcg = 1.0 + 3.0 / 3f64.log2();
    let ideal = 3.0 + 2.0 / 3f64.log2() + 0.5;
    let got = graded_ndcg_at_k(&[1, 3, 0], &[0, 1, -1, 3, 2], 10);
    close(got, dcg / ideal, 8.0 * U);
    // A negative grade costs nothing, and at k = 1 the ideal is the single best grade.
    assert_eq!(graded_ndcg_at_k(&[-5, 3], &[3, -5], 1), 0.0);
    assert_eq!(graded_ndcg_at_k(&[1, -5], &[2, 1, -5], 1), 0.5);
    // With grades 0 and 1 it is the binary metric.
    let rel = [T, F, T, T, F];
    let grades = rel.map(i64::from);
    assert_eq!(
        graded_ndcg_at_k(&grades, &[1, 1, 1, 1, 0], 10),
        ndcg_at_k(&rel, 4, 10)
    );
}

#[test]
fn nothing_to_find_and_nothing_found_are_zero() {
    for (ranked, judged) in [
        (vec![], vec![1, 2]),
        (vec![0, 0], vec![0]),
        (vec![], vec![]),
    ] {
        let metrics = RankingMetrics::of_query(&ranked, &judged);
        assert_eq!(metrics, RankingMetrics::default());
    }
    assert_eq!(precision_at_k(&[T], 0), 0.0);
    assert_eq!(ndcg_at_k(&[T], 1, 0), 0.0);
    assert_eq!(average_precision_at_k(&[T], 1, 0), 0.0);
}

#[test]
fn queries_are_joined_left_out_and_zeroed() {
    let qrels = Qrels::from_iter([
        ("a", "x", 2),
        ("a", "y", 0),
        ("b", "x", 0),
        ("c", "z", 1),
        ("d", "z", -1),
    ]);
    assert_eq!((qrels.n_queries(), qrels.n_judgements()), (4, 5));
    assert_eq!((qrels.n_relevant("a"), qrels.n_relevant("none")), (1, 0));
    assert_eq!((qrels.grade("a", "x"), qrels.grade("a", "other")), (2, 0));
    let ids = |ids: &[&str]| ids.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let run = Run::from([
        ("a".into(), ids(&["y", "x"])),
        ("b".into(), ids(&["x"])),
        ("e".into(), ids(&["x"])),
    ]);
    let found = evaluate(&run, &qrels).unwrap();
    assert_eq!(found.left_out, ["b", "d"]);
    assert_eq!(found.missing_from_run, ["c"]);
    assert_eq!(found.unjudged, ["e"]);
    let per_query: Vec<_> = found
        .per_query
        .iter()
        .map(|(q, m)| (q.as_str(), m.mrr_at_10))
        .collect();
    assert_eq!(per_query, [("a", 0.5), ("c", 0.0)]);
    assert_eq!(found.mean.mrr_at_10, 0.25);
}

#[test]
fn faults_are_one_clear_line() {
    let qrels = Qrels::from_iter([("a", "x", 1)]);
    let run = Run::from([("a".into(), vec!["x".into(), "y".into(), "x".into()])]);
    let message = evaluate(&run, &qrels).unwrap_err().to_string();
    assert!(
        message.contains("\"a\"") && message.contains("\"x\" twice"),
        "{message}"
    );
    let none = Qrels::from_iter([("a", "x", 0)]);
    let message = evaluate(&Run::new(), &none).unwrap_err().to_string();
    assert!(
        message.contains("none of the 1 judged queries"),
        "{message}"
    );
}

#[test]
fn serialised_form_keeps_names_and_order() {
    let metrics = RankingMetrics::of_query(&[0, 1], &[1]);
    let text = serde_json::to_string(&metrics).unwrap();
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(keys.keys().eq(RankingMetrics::NAMES), "{text}");
    assert_eq!(
        serde_json::from_str::<RankingMetrics>(&text).unwrap(),
        metrics
    );
    assert_eq!(metrics.get("accuracy@3"), Some(1.0));
    assert_eq!(metrics.get("accuracy@4"), None);
}

/// One collection of `tests/golden/ranking_metrics.json`, which `tools/reference/ranking_metrics.py` writes.
#[derive(Deserialize)]
struct Golden {
    name: String,
    qrels: Qrels,
    run: Run,
    left_out: Vec<String>,
    missing_from_run: Vec<String>,
    unjudged: Vec<String>,
    mean: RankingMetrics,
    per_query: BTreeMap<String, RankingMetrics>,
    /// Cuts below the number of relevant documents of most queries.
    map_at_5: BTreeMap<String, f64>,
}

#[test]
fn agrees_with_trec_eval() {
    // Both sides sum at most 100 non-negative terms of at most 6 roundings each (logarithm, division, product), divide
    // two such sums, and every value is at most 1: at most 2 * 106 roundings a side; 4 more for the change of the MAP
    // divisor and for reading the number back. The mean adds one rounding per query (at most 60) on each side.
    let tolerance = 2.0 * (2.0 * 106.0 + 4.0) * U;
    let mean_tolerance = tolerance + 2.0 * 60.0 * U;
    let text = include_str!("../../../tests/golden/ranking_metrics.json");
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    let collections: Vec<Golden> = serde_json::from_value(file["collections"].clone()).unwrap();
    assert!(collections.len() >= 2);
    let mut worst = 0.0f64;
    for golden in collections {
        let found = evaluate(&golden.run, &golden.qrels).unwrap();
        assert_eq!(found.left_out, golden.left_out, "{}", golden.name);
        assert_eq!(
            found.missing_from_run, golden.missing_from_run,
            "{}",
            golden.name
        );
        assert_eq!(found.unjudged, golden.unjudged, "{}", golden.name);
        let ids: Vec<_> = found.per_query.iter().map(|(q, _)| q).collect();
        assert!(ids.iter().copied().eq(golden.per_query.keys()), "{ids:?}");
        assert!(
            ids.len() <= 60,
            "the bound on the mean counts at most 60 queries"
        );
        for (query, metrics) in &found.per_query {
            for ((name, got), expected) in metrics.named().zip(golden.per_query[query].values()) {
                worst = worst.max((got - expected).abs() / tolerance);
                assert!(
                    (got - expected).abs() <= tolerance,
                    "{} {query} {name}: got {got}, expected {expected}",
                    golden.name
                );
            }
            let ranking = golden.run.get(query).map_or(&[][..], Vec::as_slice);
            let rel: Vec<bool> = ranking
                .iter()
                .map(|d| golden.qrels.grade(query, d) > 0)
                .collect();
            let map_at_5 = average_precision_at_k(&rel, golden.qrels.n_relevant(query), 5);
            close(map_at_5, golden.map_at_5[query], tolerance);
        }
        for (got, expected) in found.mean.values().into_iter().zip(golden.mean.values()) {
            close(got, expected, mean_tolerance);
        }
    }
    println!("largest error / bound against trec_eval: {worst:.4}");
}
