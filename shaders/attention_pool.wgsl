%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_philox.wgsl" import philox
// attention_pool.wgsl - the mean of a text's rows, weighed by their attention to one query
// Computes   out[i,:] = [sum_j w_j rows[j,:] | sum_j w_j | 0 x 7], w_j = m_j p_j, p = softmax(scale queries[i,:] .
//            rows[j,:]) over the rows j of text i; m_j = kept or, where row j is dropped, 0 (variant `dropout`; else
//            kept = 1); probabilities[j] = p_j (variant `saving`)
// Twins      src/ops/attention_pool/ (definition, reference), kernels/attention_pool.ptx
// Entry      attention_pool
//
// Shapes     queries [n, d], rows [t, d], out [n, d + 8] f16 or f32 (variant `act`); offsets [n + 1] u32; origins [t, 2]
//            u32: position, number of the text (absent without `dropout`); probabilities [t] f32 (absent without
//            `saving`). Row j of a text is dropped if word j % 4 of Philox4x32-10 for the counter (j / 4, 0, number, 0)
//            is below the threshold
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   d % 8 == 0, d <= 256 steps (variant `steps`: 2 or 4)
//
// Launch     n workgroups of 64, spread over x and y: one per text
// Mapping    eight rows at a time: invocation 8 r + k multiplies every eighth vector of four of row r with the query's;
//            invocation r adds the eight sums up. Then invocation i adds vectors i, i + 64, .. of the rows
// Memory     320 B of workgroup memory
// Sync       two barriers per eight rows
// Limits     none beyond the defaults
//
// Work       4 t d, 9 t + t / 8 exponentials per invocation
// Traffic    2 t d elements read (the second time from cache), 2 n d + 8 n read and written
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   an online softmax, sums rescaled whenever the maximum grows; bound in error_bound of the twin
// Edges      n = 0: not launched; an empty text gives zeros; NaN or infinity in a row or query -> NaN in its text
//
//   for each eight rows: s = scale (query . row); m' = max(m, s); sum = sum e^(m - m') + sum of e^(s - m')
//                        acc[] = acc[] e^(m - m') + sum over rows that stay of e^(s - m') row[]
//   out = kept acc[] / sum
struct Params { d: u32, scale: f32, threshold: u32, kept: f32, key_0: u32, key_1: u32, texts: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

%% set next = namespace(binding=3)
${array(0, "queries", act, "read", native)}
${array(1, "rows", act, "read", native)}
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
%% if dropout
@group(0) @binding(${next.binding}) var<storage, read> origins: array<vec2<u32>>;
%% set next.binding = next.binding + 1
%% endif
%% if saving
@group(0) @binding(${next.binding}) var<storage, read_write> probabilities: array<f32>;
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "out", act, "read_write", native)}

%% if dropout
${philox()}
%% endif
const GROUP: u32 = 64u;
const ROWS: u32 = 8u;
// In place of a score where there is no row: less than any.
const NONE: f32 = -3.0e38;

var<workgroup> partial: array<f32, 64>; // [8 rows][8 parts]
var<workgroup> scores: array<f32, 8>;
var<workgroup> stays: array<f32, 8>;    // 1, or 0 of a row that is dropped

@compute @workgroup_size(GROUP)
fn attention_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let text = group.x + group.y * groups.x;
    if text >= p.texts {
        return;
    }
    let first = offsets[text];
    let count = offsets[text + 1u] - first;
    var largest = NONE;
    var all = 0.0;
    var total = 0.0;
%% for s in range(steps)
    var acc_${s} = vec4<f32>();
%% endfor
    for (var start = 0u; start < count; start += ROWS) {
        // ---- Scores ----
        let row = start + lane / 8u;
        var product = 0.0;
        if row < count {
            for (var c = lane % 8u; c < d4(); c += 8u) {
                product += dot(load_queries(text * d4() + c), load_rows((first + row) * d4() + c));
            }
        }
        partial[lane] = product;
        workgroupBarrier(); // all products are in partial[]
        if lane < ROWS {
            let here = start + lane;
            var score = NONE;
            if here < count {
                score = 0.0;
                for (var k = 0u; k < 8u; k += 1u) {
                    score += partial[8u * lane + k];
                }
                score *= p.scale;
%% if saving
                // Scores lie where probabilities will be; whoever writes one makes the other of it.
                probabilities[first + here] = score;
%% endif
            }
            scores[lane] = score;
%% if dropout
            let number = origins[first].y;
            let words = philox(vec2<u32>(p.key_0, p.key_1), vec4<u32>(here / 4u, 0u, number, 0u));
            stays[lane] = select(1.0, 0.0, words[here % 4u] < p.threshold);
%% endif
        }
        workgroupBarrier(); // scores[] are complete, and partial[] has been read

        // ---- Numerators, and the sums so far made smaller by what the maximum has grown ----
        let before = largest;
        for (var r = 0u; r < ROWS; r += 1u) {
            largest = max(largest, scores[r]);
        }
        let factor = select(exp(before - largest), 0.0, start == 0u);
        all *= factor;
        total *= factor;
%% for s in range(steps)
        acc_${s} *= factor;
%% endfor
        for (var r = 0u; r < min(ROWS, count - start); r += 1u) {
            var numerator = exp(scores[r] - largest);
            all += numerator;
%% if dropout
            numerator *= stays[r];
%% endif
            total += numerator;
            let base = (first + start + r) * d4();
%% for s in range(steps)
            if lane + ${64 * s}u < d4() {
                acc_${s} += numerator * load_rows(base + lane + ${64 * s}u);
            }
%% endfor
        }
    }
    let weight = select(p.kept / all, 0.0, count == 0u);
    let base = text * (d4() + 2u);
%% for s in range(steps)
    if lane + ${64 * s}u < d4() {
        store_out(base + lane + ${64 * s}u, acc_${s} * weight);
    }
%% endfor
    if lane == 0u {
        store_out(base + d4(), vec4<f32>(total * weight, 0.0, 0.0, 0.0));
        store_out(base + d4() + 1u, vec4<f32>());
    }
%% if saving
    if lane < ROWS {
        for (var row = lane; row < count; row += ROWS) {
            probabilities[first + row] = exp(probabilities[first + row] - largest) / all;
        }
    }
%% endif
}
