//! Graphs of small batches on CUDA: the bits of a plain run, eviction, switching off, memory; and the switches of the
//! environment.
//!
//! Most need a CUDA device.

#[path = "common/needs.rs"]
mod needs;

use std::path::{Path, PathBuf};
use std::process::Command;

use nearmiss::Device;
use nearmiss::encoder::{Encoder, GraphStats, LoadOptions};
use nearmiss::text::{Batch, TextKind, pack};

fn folder() -> PathBuf {
    // Named when it runs, if the program was carried to another machine.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&root).join("tests/golden/tiny-bert-2x64")
}

fn encoder(device: &Device, graphs: usize) -> Encoder {
    let encoder = Encoder::load(&folder(), device, LoadOptions::default()).unwrap();
    encoder.set_graphs(graphs);
    encoder
}

/// Texts of the given lengths, packed; other ids for every `seed`.
fn batch(encoder: &Encoder, lengths: &[usize], seed: usize) -> Batch {
    let vocab = encoder.config().vocab;
    let tokens: Vec<Vec<u32>> = lengths
        .iter()
        .enumerate()
        .map(|(text, &length)| {
            (0..length)
                .map(|i| ((i * 31 + text * 17 + seed * 101 + 5) % vocab) as u32)
                .collect()
        })
        .collect();
    pack(&tokens, &(0..tokens.len()).collect::<Vec<_>>())
}

fn vectors(encoder: &Encoder, batch: &Batch) -> Vec<u32> {
    bits(
        &encoder
            .hidden_states(batch, None)
            .unwrap()
            .0
            .read()
            .unwrap(),
    )
}

fn embeddings(encoder: &Encoder, texts: &[&str]) -> Vec<u32> {
    bits(&encoder.embed(texts, TextKind::Query).unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    assert!(values.iter().all(|v| v.is_finite()));
    values.iter().map(|v| v.to_bits()).collect()
}

/// What matters of the statistics: recorded, replayed, evicted, kept.
fn counts(encoder: &Encoder) -> [u64; 4] {
    let GraphStats {
        recorded,
        replayed,
        evicted,
        kept,
        ..
    } = encoder.graph_stats();
    [recorded, replayed, evicted, kept as u64]
}

/// The same words in another order have as many tokens.
const ORDERS: [&str; 4] = [
    "the dog bites the man",
    "the man bites the dog",
    "man the dog bites the",
    "bites the dog the man",
];

fn replays_have_the_bits_of_plain_runs(device: Device) {
    for caching in [true, false] {
        device.set_memory_caching(caching);
        let (plain, graphed) = (encoder(&device, 0), encoder(&device, 8));
        // A single text, several, one that is empty, one of a single token, as many tokens in other texts, and more
        // tokens than fit one tile.
        let shapes: [&[usize]; 5] = [&[7], &[12, 9, 9, 3], &[5, 0, 1], &[3, 4], &[40, 33]];
        for (n, lengths) in (1..).zip(shapes) {
            let mut seen = Vec::new();
            for seed in 0..4 {
                let batch = batch(&plain, lengths, seed);
                let want = vectors(&plain, &batch);
                assert!(!seen.contains(&want), "other ids, other vectors");
                assert!(
                    vectors(&graphed, &batch) == want,
                    "lengths {lengths:?}, use {seed}, caching {caching}"
                );
                seen.push(want);
            }
            assert_eq!(counts(&graphed), [n, 3 * n, 0, n]);
        }
        let mut seen = Vec::new();
        for (use_, text) in ORDERS.iter().enumerate() {
            let want = embeddings(&plain, &[text]);
            assert!(!seen.contains(&want), "another text, another embedding");
            assert!(
                embeddings(&graphed, &[text]) == want,
                "{text:?}, use {use_}, caching {caching}"
            );
            seen.push(want);
        }
        assert_eq!(counts(&graphed), [6, 18, 0, 6]);
        assert!(graphed.graph_stats().bytes > 0);
        assert_eq!(plain.graph_stats(), GraphStats::default());
    }
}

fn the_least_recently_used_graph_makes_room(device: Device) {
    let (plain, graphed) = (encoder(&device, 0), encoder(&device, 3));
    let run = |length: usize, seed| {
        let batch = batch(&plain, &[length], seed);
        assert!(
            vectors(&graphed, &batch) == vectors(&plain, &batch),
            "length {length}, seed {seed}"
        );
        counts(&graphed)
    };
    for (n, length) in (1..).zip([4, 6, 8]) {
        run(length, 0);
        assert_eq!(run(length, 1), [n, n, 0, n]);
    }
    // 4 is used again, so 6 goes when 10 comes.
    assert_eq!(run(4, 2), [3, 4, 0, 3]);
    run(10, 0);
    assert_eq!(run(10, 1), [4, 5, 1, 3]);
    assert_eq!(run(4, 3), [4, 6, 1, 3], "still there");
    assert_eq!(run(8, 2), [4, 7, 1, 3], "still there");
    assert_eq!(run(6, 2), [4, 7, 1, 3], "gone: runs plainly");
    assert_eq!(run(6, 3), [5, 8, 2, 3], "recorded again, instead of 10");
    assert_eq!(run(10, 2), [5, 8, 2, 3]);
}

fn graphs_can_be_switched_off_and_give_their_memory_back(device: Device) {
    device.set_memory_caching(true);
    let before = device.memory().in_use;
    let graphed = encoder(&device, 8);
    let weights = device.memory().in_use;
    let text = ["the dog bites the man"];
    let want = embeddings(&graphed, &text);
    assert_eq!(device.memory().in_use, weights);
    assert_eq!(embeddings(&graphed, &text), want);
    let held = device.memory().in_use - weights;
    assert!(
        held >= graphed.graph_stats().bytes && graphed.graph_stats().bytes > 0,
        "{held} bytes held, {:?}",
        graphed.graph_stats()
    );
    graphed.set_graphs(0);
    assert_eq!(counts(&graphed), [1, 1, 1, 0]);
    assert_eq!(device.memory().in_use, weights);
    for _ in 0..3 {
        assert_eq!(embeddings(&graphed, &text), want);
    }
    assert_eq!(counts(&graphed), [1, 1, 1, 0]);
    graphed.set_graphs(1);
    embeddings(&graphed, &text);
    embeddings(&graphed, &text);
    assert_eq!(counts(&graphed), [2, 2, 1, 1]);
    drop(graphed);
    assert_eq!(device.memory().in_use, before);
}

fn a_batch_that_needs_the_memory_gets_it(device: Device) {
    let (plain, graphed) = (encoder(&device, 0), encoder(&device, 8));
    let text = ["the dog bites the man"];
    let want = embeddings(&graphed, &text);
    embeddings(&graphed, &text);
    assert_eq!(counts(&graphed), [1, 1, 0, 1]);
    // What a run of another batch takes, besides the weights and the graph.
    let kept = device.memory().in_use;
    let graph = graphed.graph_stats().bytes;
    device.reset_memory_peak();
    let longer = ["the dog bites the man and the man bites the dog"];
    let want_longer = embeddings(&plain, &longer);
    let run = device.memory().peak - kept;
    device.set_memory_limit(Some(kept - graph / 2 + run));
    assert_eq!(embeddings(&graphed, &longer), want_longer);
    assert_eq!(counts(&graphed), [1, 1, 1, 0], "the graph was given up");
    device.set_memory_limit(None);
    for _ in 0..2 {
        assert_eq!(embeddings(&graphed, &text), want);
    }
    assert_eq!(counts(&graphed), [2, 2, 1, 1], "graphs are made again");
}

fn what_is_not_recorded_runs_plainly(device: Device) {
    let graphed = encoder(&device, 8);
    // One token more than is recorded.
    let lengths: Vec<usize> = std::iter::repeat_n(8, 128).chain([1]).collect();
    let large = batch(&graphed, &lengths, 0);
    assert_eq!(large.n_tokens(), 1025);
    let want = vectors(&graphed, &large);
    assert_eq!(vectors(&graphed, &large), want);
    assert_eq!(graphed.graph_stats(), GraphStats::default());
    // An observer sees every stage each time.
    let small = batch(&graphed, &[5], 0);
    for _ in 0..3 {
        let mut stages = 0;
        let mut count = |_, _: &nearmiss::device::Buffer<f32>| {
            stages += 1;
            Ok(())
        };
        graphed.hidden_states(&small, Some(&mut count)).unwrap();
        assert_eq!(stages, 1 + graphed.config().n_layers);
    }
    // Profiling times every operator.
    device.set_profiling(true);
    for _ in 0..3 {
        vectors(&graphed, &small);
    }
    assert_eq!(graphed.graph_stats(), GraphStats::default());
    let totals = device.op_totals();
    assert!(totals.iter().all(|t| t.calls > 0), "{totals:?}");
}

fn operators_count_in_a_graph_as_outside(device: Device) {
    let graphed = encoder(&device, 8);
    let calls = || -> Vec<(&str, u64, u64)> {
        let totals = device.op_totals();
        totals
            .iter()
            .map(|t| (t.op, t.calls, t.cost.flop))
            .collect()
    };
    vectors(&graphed, &batch(&graphed, &[6, 2], 0));
    let once = calls();
    assert_eq!(once.len(), 4, "{once:?}");
    for seed in 1..5 {
        vectors(&graphed, &batch(&graphed, &[6, 2], seed));
        let n = seed as u64 + 1;
        let expected: Vec<_> = once.iter().map(|&(op, c, f)| (op, c * n, f * n)).collect();
        assert_eq!(calls(), expected);
    }
    assert_eq!(counts(&graphed), [1, 4, 0, 1]);
}

fn threads_share_an_encoder_and_its_graphs(device: Device) {
    let (plain, graphed) = (encoder(&device, 0), encoder(&device, 2));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (plain, graphed) = (&plain, &graphed);
            scope.spawn(move || {
                for round in 0..4 {
                    // Two shapes for four threads; `plain` enqueues on the same device while others record.
                    let batch = batch(plain, &[3 + thread % 2], 10 * thread + round);
                    assert_eq!(
                        vectors(graphed, &batch),
                        vectors(plain, &batch),
                        "thread {thread}, round {round}"
                    );
                }
            });
        }
    });
    assert_eq!(counts(&graphed), [2, 14, 0, 2]);
}

/// Says to this program that it is a child, which has other tests.
const CHILD: &str = "NEARMISS_TEST_CHILD";

/// Runs one of the children's tests in a process of its own, with a variable set.
fn child(test: &str, variable: &str, value: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(CHILD, "1")
        .env(variable, value)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    text
}

fn the_environment_switches_graphs(_: Device) {
    let recorded = |value| {
        let text = child("cuda::child_records", "NEARMISS_GRAPHS", value);
        let line = text.lines().find_map(|l| l.split_once("child: ")).unwrap();
        line.1.to_string()
    };
    assert_eq!(recorded("off"), "0 recorded");
    assert_eq!(recorded("0"), "0 recorded");
    assert_eq!(recorded("3"), "1 recorded");
    assert_eq!(recorded(""), "1 recorded");
    assert_eq!(
        recorded("some"),
        "NEARMISS_GRAPHS=some: use off, or how many graphs to keep"
    );
}

fn child_records(device: Device) {
    match Encoder::load(&folder(), &device, LoadOptions::default()) {
        Ok(encoder) => {
            for text in ORDERS {
                embeddings(&encoder, &[text]);
            }
            println!("child: {} recorded", encoder.graph_stats().recorded);
        }
        Err(e) => println!("child: {e}"),
    }
}

fn the_environment_switches_the_memory_cache() {
    let cached = |value| {
        let text = child("child_frees", "NEARMISS_MEMORY_CACHING", value);
        let noted = text.contains("note: NEARMISS_MEMORY_CACHING=often is ignored");
        assert_eq!(noted, value == "often", "{text}");
        text.contains("child: cached")
    };
    assert!(cached("on"));
    assert!(cached(""));
    assert!(cached("often"));
    assert!(!cached("off"));
}

fn child_frees() {
    let device = Device::cpu();
    drop(device.alloc::<u32>(100).unwrap());
    if device.memory().cached > 0 {
        println!("child: cached");
    }
}

fn main() {
    let mut tests = needs::Tests::default();
    let cuda = &needs::cuda();
    if std::env::var_os(CHILD).is_some() {
        needs::add!(tests, cuda => child_records);
        needs::add!(tests: child_frees);
        tests.run()
    }
    needs::add!(tests: the_environment_switches_the_memory_cache);
    needs::add!(tests, cuda =>
        replays_have_the_bits_of_plain_runs,
        the_least_recently_used_graph_makes_room,
        graphs_can_be_switched_off_and_give_their_memory_back,
        a_batch_that_needs_the_memory_gets_it,
        what_is_not_recorded_runs_plainly,
        operators_count_in_a_graph_as_outside,
        threads_share_an_encoder_and_its_graphs,
        the_environment_switches_graphs,
    );
    tests.run()
}
