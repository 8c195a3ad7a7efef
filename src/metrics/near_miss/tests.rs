use super::*;

fn pair(
    anchor: &'static str,
    kind: Kind,
    category: &'static str,
    source: &'static str,
    split: Split,
    score: f64,
) -> ScoredPair<'static> {
    ScoredPair {
        anchor,
        kind,
        category,
        source,
        split,
        score,
        edit_size: 1,
        length: 5,
    }
}

use Kind::{NearMiss, Paraphrase, Synonym};
use Split::{Calibration, Test};

/// Calibration accepts 0.5, 0.6, 0.7, 0.8; test anchors x, y (negation), z (role).
fn pairs() -> Vec<ScoredPair<'static>> {
    vec![
        pair("c1", Paraphrase, "", "s", Calibration, 0.5),
        pair("c2", Paraphrase, "", "s", Calibration, 0.6),
        pair("c3", Synonym, "", "s", Calibration, 0.7),
        pair("c4", Paraphrase, "", "t", Calibration, 0.8),
        pair("c1", NearMiss, "negation", "s", Calibration, 0.95),
        pair("x", Paraphrase, "", "s", Test, 0.9),
        pair("x", Paraphrase, "", "s", Test, 0.7),
        pair("x", Synonym, "", "s", Test, 0.99),
        pair("y", Synonym, "", "s", Test, 0.45),
        pair("z", Paraphrase, "", "t", Test, 0.85),
        pair("x", NearMiss, "negation", "s", Test, 0.75),
        pair("y", NearMiss, "negation", "s", Test, 0.45),
        pair("y", NearMiss, "negation", "s", Test, 0.25),
        pair("z", NearMiss, "role", "u", Test, -0.5),
        pair("x", Kind::Identity, "", "s", Test, 1.0),
        pair("x", Kind::Unrelated, "", "s", Test, 0.0),
    ]
}

fn options(minimum: usize) -> Options {
    Options {
        minimum,
        bootstrap: Bootstrap {
            resamples: 2_000,
            seed: 1,
        },
        ..Options::default()
    }
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-12, "{got} {want}");
}

#[test]
fn work_is_limited_where_categories_are_many() {
    assert_eq!(affordable(10_000, 0), 10_000);
    assert_eq!(affordable(10_000, MOST_WORK / 10_000), 10_000);
    assert_eq!(affordable(10_000, MOST_WORK / 5_000), 5_000);
    assert_eq!(affordable(10_000, MOST_WORK), FEWEST_RESAMPLES);
    assert_eq!(affordable(20, MOST_WORK), 20, "never more than wanted");

    // Of the test half of `pairs`: x, y and z with five accepts and four near-misses, x and y alone with four and three,
    // z alone with one and one.
    let (pairs, options) = (pairs(), options(1));
    let study = Study::new(&pairs, &options);
    let work = [None, Some("negation"), Some("role")].map(|group| study.sizes(group).work());
    assert_eq!(work, [5 + 4 + 3, 4 + 3 + 2, 1 + 1 + 1]);
    assert_eq!(study.bootstrap(Sizes::work), options.bootstrap);
    let limited = study.bootstrap(|group| group.work() * MOST_WORK / 24 / 1_500);
    assert_eq!((limited.resamples, limited.seed), (1_500, 1));
    assert_eq!(fewer(limited, &options), Some(1_500));
    let found = evaluate(&pairs, &options).unwrap();
    assert_eq!(found.resamples, None);
    assert!(!serde_json::to_string(&found).unwrap().contains("resamples"));
    // With fewer of either than are needed both halves count, and with few of them nothing.
    let options = Options {
        minimum: 30,
        ..options
    };
    assert_eq!(Study::new(&pairs, &options).sizes(None).work(), 0);
    let twice: Vec<_> = [&pairs[..], &pairs, &pairs].concat();
    let sizes = Study::new(&twice, &options).sizes(None);
    assert_eq!(
        (sizes.pairs, sizes.anchors, sizes.rates),
        (3 * (9 + 5), 7, false)
    );
}

/// 300 categories of 40 near-misses each, without accepts of their own anchors: each is judged against all accepts.
#[test]
fn hundreds_of_categories_get_fewer_samples() {
    let names: Vec<[String; 2]> = (0..300)
        .map(|i| [format!("category {i}"), format!("anchor {i}")])
        .collect();
    let accepts: Vec<String> = (0..10_000).map(|i| format!("accept {i}")).collect();
    let mut pairs: Vec<ScoredPair<'_>> = accepts
        .iter()
        .enumerate()
        .map(|(i, anchor)| ScoredPair {
            anchor,
            score: i as f64 / 10_000.0,
            ..pair("", Paraphrase, "", "", Test, 0.0)
        })
        .collect();
    for [category, anchor] in &names {
        let near_miss = |i: usize| ScoredPair {
            anchor,
            category,
            score: i as f64 / 40.0,
            ..pair("", NearMiss, "", "", Test, 0.0)
        };
        pairs.extend((0..40).map(near_miss));
    }
    let work = 300 * (10_000 + 40 + 10_001) + (10_000 + 300 * 40 + 10_300);
    let options = Options::default();
    let study = Study::new(&pairs, &options);
    assert_eq!(
        study.bootstrap(Sizes::work).resamples as u64,
        MOST_WORK / work
    );
}

#[test]
fn numbers_by_hand() {
    let found = evaluate(&pairs(), &options(1)).unwrap();
    // floor(0.1 * 4) = 0 and so on: the lowest accept of four.
    assert_eq!(found.thresholds, Measured::Value([0.5; 3]));
    let names: Vec<&str> = found.categories.iter().map(|c| &c.category[..]).collect();
    assert_eq!(names, ["negation", "role"]);

    let negation = &found.categories[0];
    assert_eq!(negation.near_misses.n, 4);
    close(negation.near_misses.mean, 0.6);
    close(negation.identity_margin.unwrap(), 0.4);
    assert_eq!(negation.basis, Basis::SameAnchors);
    assert_eq!(negation.without_accepts_of_their_source, 0);
    // c1 is an anchor of the category too, in the other half.
    assert_eq!(negation.accepts.n, 5);
    let apart = negation.separation.value().unwrap();
    assert_eq!((apart.near_misses, apart.accepts, apart.anchors), (3, 4, 2));
    // 0.9 and 0.99 above all three, 0.7 above two, 0.45 above one and level with one.
    close(apart.auc.value, (3.0 + 3.0 + 2.0 + 1.5) / 12.0);
    // x: paraphrases alone, 0.8 - 0.75; y: 0.45 - 0.45 and 0.45 - 0.25.
    let margins = apart.margins.unwrap();
    assert_eq!(margins.n, 3);
    close(margins.mean.value, 0.25 / 3.0);
    close(margins.median, 0.05);
    close(margins.triplet_error, 1.0 / 3.0);
    close(apart.anchor_accuracy.unwrap(), 2.0 / 3.0);
    let angle = |s: f64| s.acos().to_degrees();
    let turned = [
        angle(0.75) - (angle(0.9) + angle(0.7)) / 2.0,
        0.0,
        angle(0.25) - angle(0.45),
    ];
    close(margins.degrees.unwrap(), turned.iter().sum::<f64>() / 3.0);
    let point = &apart.rejection.value().unwrap()[1];
    close(point.true_accept, 0.75);
    close(point.rejection.value, 2.0 / 3.0);
    let fixed = apart.fixed.unwrap();
    assert_eq!(fixed[0].threshold, 0.85);
    close(fixed[0].false_accept, 0.0);
    close(fixed[0].false_reject, 0.5);
    // Without c1, whose anchor is the category's own, the lowest calibration accept is 0.6.
    let left_out = &apart.rejection_left_out.value().unwrap()[1];
    close(left_out.threshold, 0.6);
    close(left_out.rejection.value, 2.0 / 3.0);

    let role = &found.categories[1];
    assert_eq!(role.without_accepts_of_their_source, 1, "u has no accepts");
    close(role.histogram.below_zero, 1.0);

    let all = &found.all;
    assert_eq!((&all.category[..], all.near_misses.n), ("all", 5));
    let rejection = |report: &CategoryReport| {
        report
            .separation
            .value()
            .unwrap()
            .rejection
            .value()
            .unwrap()[1]
            .rejection
            .value
    };
    close(rejection(all), 3.0 / 4.0);
    close(
        found.macro_average.rejection[1].unwrap(),
        (2.0 / 3.0 + 1.0) / 2.0,
    );
    close(found.macro_average.near_miss_mean, 0.05);

    let sources: Vec<_> = found
        .sources
        .iter()
        .map(|s| (&s.source[..], s.near_misses, s.accepts))
        .collect();
    let expected = [
        ("s", [1, 3], [3, 4]),
        ("t", [0, 0], [1, 1]),
        ("u", [0, 1], [0, 0]),
    ];
    assert_eq!(sources, expected);
    assert!(found.sources[2].auc.value().is_none());
    close(*found.sources[2].rejection_95.value().unwrap(), 1.0);
}

#[test]
fn too_few_pairs_give_no_rate() {
    let found = evaluate(&pairs(), &options(4)).unwrap();
    let refused = |measured: &Measured<Separation>| match measured {
        Measured::Refused { refused } => refused.clone(),
        Measured::Value(value) => panic!("{value:?}"),
    };
    let negation = refused(&found.categories[0].separation);
    assert_eq!(
        negation,
        "near-misses in the test half: 3; at least 4 are needed"
    );
    assert_eq!(
        found.categories[0].near_misses.n, 4,
        "a mean is still given"
    );
    assert!(found.all.separation.value().is_some());
    // Five calibration accepts are one more than there are.
    let found = evaluate(&pairs(), &options(5)).unwrap();
    assert!(found.thresholds.value().is_none());
    let text = serde_json::to_string(&found.thresholds).unwrap();
    assert!(
        text.starts_with("{\"refused\":\"no threshold (accepts in the calibration half: 4;"),
        "{text}"
    );

    let without: Vec<_> = pairs()
        .into_iter()
        .filter(|p| !p.kind.is_accept())
        .collect();
    let found = evaluate(&without, &options(1)).unwrap();
    assert!(refused(&found.all.separation).starts_with("accepts in the test half: 0;"));
}

#[test]
fn what_needs_no_threshold_is_given_over_both_halves() {
    const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut few = Vec::new();
    for (i, name) in NAMES.into_iter().enumerate() {
        let split = if i % 2 == 0 { Calibration } else { Test };
        // Every second near-miss scores above its accept, and below the next one's.
        let score = i as f64 / 100.0;
        few.push(pair(name, Paraphrase, "", "s", split, score));
        let above = if i % 2 == 0 { 0.005 } else { -0.5 };
        few.push(pair(name, NearMiss, "role", "s", split, score + above));
    }
    let found = evaluate(&few, &options(30)).unwrap();
    assert!(found.all.separation.value().is_none());
    let both = found.all.both_halves.unwrap();
    assert_eq!((both.near_misses, both.accepts, both.anchors), (12, 12, 12));
    // Six near-misses lie below all accepts; of the others, at 0, 2, ..., 10, each lies below 11 - i accepts.
    let above: usize = (0..12).step_by(2).map(|i| 11 - i).sum();
    close(both.auc.value, (6 * 12 + above) as f64 / 144.0);
    let [low, high] = both.auc.interval.unwrap();
    assert!(low < both.auc.value && both.auc.value < high);
    // From above: a, r, a, a, r, a, a, r, ...: with the 8th accept and the 4th near-miss it is 4/12 on both sides.
    close(both.equal_error_rate.value, 4.0 / 12.0);
    let [low, high] = both.equal_error_rate.interval.unwrap();
    assert!(low <= both.equal_error_rate.value && both.equal_error_rate.value <= high);
    // Where the test half is enough, there is one number and not two; of nine pairs there is none.
    let enough = evaluate(&few, &options(6)).unwrap();
    assert!(enough.all.separation.value().is_some() && enough.all.both_halves.is_none());
    let nine = evaluate(&few[..18], &options(30)).unwrap();
    assert!(nine.all.separation.value().is_none() && nine.all.both_halves.is_none());
}

#[test]
fn thresholds_can_come_from_elsewhere() {
    let options = Options {
        transferred: Some([0.8, 0.3, 0.0]),
        ..options(1)
    };
    let found = evaluate(&pairs(), &options).unwrap();
    let points = found
        .all
        .separation
        .value()
        .unwrap()
        .rejection
        .value()
        .unwrap();
    let rates: Vec<f64> = points.iter().map(|p| p.rejection.value).collect();
    assert_eq!(rates, [1.0, 0.5, 0.25]);
}

#[test]
fn scores_that_are_no_cosines_have_no_angles() {
    let options = Options {
        cosine: false,
        ..options(1)
    };
    let found = evaluate(&pairs(), &options).unwrap();
    let apart = found.all.separation.value().unwrap();
    assert!(apart.fixed.is_none() && apart.margins.unwrap().degrees.is_none());
    assert!(found.all.sensitivity.is_none() && found.all.identity_margin.is_none());
}

#[test]
fn bad_input_is_named() {
    let mut nan = pairs();
    nan[3].score = f64::NAN;
    let error = evaluate(&nan, &options(1)).unwrap_err().to_string();
    assert!(error.contains("\"c4\" from t is NaN"), "{error}");
    let error = evaluate(&pairs()[..4], &options(1)).unwrap_err();
    assert!(error.to_string().contains("no near-miss"));
}

#[test]
fn halves_are_stable_and_even() {
    assert_eq!(
        Split::of_anchor("a sentence"),
        Split::of_anchor(" a sentence\n")
    );
    // SHA-256 of "abc" begins with ba, of "" with e3.
    assert_eq!(Split::of_anchor("abc"), Calibration);
    assert_eq!(Split::of_anchor(""), Test);
    let test = (0..10_000)
        .filter(|i| Split::of_anchor(&format!("sentence {i}")) == Test)
        .count();
    // Standard deviation 50.
    assert!(test.abs_diff(5_000) < 300, "{test}");
}

#[test]
fn histogram_bins_by_hand() {
    let scores = [-0.1, 0.0, 0.49, 0.5, 0.7, 0.849, 0.85, 0.95, 1.005, 1.01];
    let found = histogram(&scores);
    close(found.below_zero, 0.1);
    for (got, want) in found.shares.iter().zip([0.2, 0.1, 0.2, 0.1, 0.2]) {
        close(*got, want);
    }
    close(found.above, 0.1);
    assert_eq!(histogram(&[]).above, 0.0);
}

/// Many anchors with one accept and one near-miss each, half of them for calibration.
fn many(near_miss: impl Fn(usize) -> f64) -> Vec<ScoredPair<'static>> {
    let mut pairs = Vec::new();
    for i in 0..400 {
        let anchor: &'static str = format!("anchor {i}").leak();
        let split = [Calibration, Test][i % 2];
        let wiggle = ((i * 7919) % 400) as f64 / 4000.0;
        pairs.push(pair(anchor, Paraphrase, "", "s", split, 0.8 + wiggle));
        pairs.push(pair(anchor, NearMiss, "role", "s", split, near_miss(i)));
    }
    pairs
}

#[test]
fn intervals_cover_and_shrink() {
    let found = evaluate(&many(|i| ((i * 31) % 400) as f64 / 400.0), &options(30)).unwrap();
    let apart = found.all.separation.value().unwrap();
    let point = apart.rejection.value().unwrap()[1];
    let [low, high] = point.rejection.interval.unwrap();
    // Anchors are independent, so the interval is that of a binomial with 200 trials.
    let p = point.rejection.value;
    let half = 1.96 * (p * (1.0 - p) / 200.0).sqrt();
    assert!((low - (p - half)).abs() < 0.015 && (high - (p + half)).abs() < 0.015);
    let [low, high] = apart.auc.interval.unwrap();
    assert!(low < apart.auc.value && apart.auc.value < high);
}

#[test]
fn comparing_sees_what_changed() {
    let before = many(|i| 0.75 + ((i * 31) % 400) as f64 / 2000.0);
    let mut after = before.clone();
    for pair in after.iter_mut().filter(|pair| pair.kind == NearMiss) {
        pair.score -= 0.1;
    }
    let changes = compare(&before, &after, &options(30)).unwrap();
    let names: Vec<&str> = changes.iter().map(|c| &c.category[..]).collect();
    assert_eq!(names, ["role", "all"]);
    for change in &changes {
        close(change.difference.mean, -0.1);
        assert_eq!((change.lower, change.higher), (1.0, 0.0));
        let margin = change.margin.unwrap();
        close(margin.value, 0.1);
        let [low, high] = margin.interval.unwrap();
        close(low, 0.1);
        close(high, 0.1);
        assert!(change.auc.value().unwrap().interval.unwrap()[0] > 0.0);
        let rejection = change.rejection.unwrap()[1].value;
        let [lost, won] = change.flips.unwrap();
        assert_eq!(lost, 0);
        close(rejection, won as f64 / 200.0);
        assert!(won > 60 && change.mcnemar.unwrap() < 1e-6);
    }
    let same = compare(&before, &before, &options(30)).unwrap();
    assert_eq!((same[0].flips, same[0].mcnemar), (Some([0, 0]), Some(1.0)));
    let error = compare(&before, &before[2..], &options(30)).unwrap_err();
    assert!(error.to_string().contains("not of the same pairs"));
}

#[test]
fn several_runs_are_compared_by_their_means() {
    let before = many(|i| 0.75 + ((i * 31) % 400) as f64 / 2000.0);
    let lowered = |by: f64| {
        let mut after = before.clone();
        for pair in after.iter_mut().filter(|pair| pair.kind == NearMiss) {
            pair.score -= by;
        }
        after
    };
    let (little, much) = (lowered(0.02), lowered(0.1));
    let of = |after: &[&[ScoredPair<'_>]]| {
        let changes = compare_runs(&[&before], after, &options(30)).unwrap();
        changes.last().unwrap().clone()
    };
    let [one, other, both] = [of(&[&little]), of(&[&much]), of(&[&little, &much])];
    let auc = |change: &Change| change.auc.value().unwrap().value;
    close(auc(&both), (auc(&one) + auc(&other)) / 2.0);
    close(both.margin.unwrap().value, 0.06);
    close(both.difference.mean, -0.06);
    assert_eq!(both.difference.n, 2 * one.difference.n);
    // Both fell by more than 0.01, and a test of paired answers is one of single runs.
    assert_eq!((both.lower, both.flips, both.mcnemar), (1.0, None, None));
    // A run given twice is the run, its interval too.
    let twice = of(&[&much, &much]);
    close(auc(&twice), auc(&other));
    let [a, b] = [&twice, &other].map(|change| change.margin.unwrap().interval.unwrap());
    close(a[0], b[0]);
    close(a[1], b[1]);
    assert!(compare_runs(&[], &[&before], &options(30)).is_err());
}
