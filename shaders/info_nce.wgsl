%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// info_nce.wgsl - in-batch softmax with explicit negatives: losses, and gradients of anchors and candidates
// Computes   losses[i] = log sum_j exp(z_ij) - z_ii,  z_ij = scale a_i . c_j over the candidates j that anchor i sees;
//            G_ij = factor (softmax(z_i)_j - [i = j]);  d_anchors = G c;  d_candidates = G^T a
// Twins      src/ops/info_nce/ (definition, reference), kernels/info_nce.ptx
// Entry      info_nce_product, info_nce_softmax. The first is c = factor (c if add, + x y), in variant `form`: nt (scores;
//            columns of c are rows of y), nn (d_anchors) or tn (d_candidates; rows of c are columns of x); in the second
//            (`form` softmax) scores become G. A loss is nt, softmax, nn, tn; with anchors in turns, all four for each
//
// Shapes     x: anchors [rows, k] (nt), G [rows, pitch] (nn) or [k, pitch] (tn); y: candidates [columns, k] (nt) or
//            [k, columns] (nn), anchors [k, columns] (tn); c: scores [rows, pitch], d_anchors or d_candidates [rows, columns];
//            owners [m] u32, 2^32 - 1 for none, absent without variant `owners`; losses [rows] f32; all others f32. pitch = m
//            rounded up to a multiple of 4; first: the number of the anchor in row 0
// Layout     row-major, rows x_pitch, y_pitch, c_pitch apart, 16-byte aligned, no aliasing
// Requires   pitches % 4 == 0, columns % 4 == 0 but for nt
//
// Launch     product: a workgroup of 64 per tile of 32 x 32, column tiles fastest, spread over x and y; softmax: a workgroup
//            of 64 per row, spread over x and y
// Mapping    product: invocation i computes rows 4 (i / 8) .. + 3 and columns 4 (i % 8) .. + 3 of the tile; softmax:
//            invocation i takes elements i, i + 64, ..
// Memory     product: 16 k of both operands, 4,096 B of workgroup memory; softmax: 256 B for sums
// Sync       product: two barriers per 16 k (filled, consumed); softmax: two barriers and one per halving (6) for each of
//            two reductions, two with subgroups
// Limits     none beyond the defaults
//
// Work       2 rows columns k per product
// Traffic    4 (2 (b + m) d + b) bytes per loss, and the scores
// Roofline   compute bound for large batches
// Measured   see benches/results
//
// Numerics   products: 16 k at a time, by dot() of four where k runs along both operands; sums in fixed order; the positive's
//            gradient is minus the sum of the others. Bound in error_bound of the twin
// Edges      columns m .. pitch of G are zero; NaN: as the device has it (grad_norm looks at the bits)
%% set x_rows = form != "tn"
%% set y_rows = form == "nt"
%% if form != "softmax"
struct Params {
    rows: u32,
    columns: u32,
    k: u32,
    x_pitch: u32,
    y_pitch: u32,
    c_pitch: u32,
    factor: f32,
    add: u32,
}
var<immediate> p: Params;

${array(0, "x", "f32", "read", false)}
${array(1, "y", "f32", "read", false)}
${array(2, "c", "f32", "read_write", false)}

const GROUP: u32 = 64u;
const TILE: u32 = 32u;
const DEPTH: u32 = 16u;
// An operand along whose rows k runs: [TILE][DEPTH / 4], else [DEPTH][TILE / 4].
var<workgroup> xs: array<vec4<f32>, 128>;
var<workgroup> ys: array<vec4<f32>, 128>;

%% for o, rows, extent in [("x", x_rows, "rows"), ("y", y_rows, "columns")]
// Vector i of the tile of ${o} at `base`, 16 k from `k` on; zero if it does not exist.
fn part_${o}(i: u32, base: u32, k: u32) -> vec4<f32> {
%% if rows
    let row = base + i / 4u;
    let column = k + 4u * (i % 4u);
    if row >= p.${extent} || column >= p.${o}_pitch {
%% else
    let row = k + i / 8u;
    let column = base + 4u * (i % 8u);
    if row >= p.k || column >= p.${o}_pitch {
%% endif
        return vec4<f32>();
    }
    return load_${o}((row * p.${o}_pitch + column) / 4u);
}
%% endfor

@compute @workgroup_size(GROUP)
fn info_nce_product(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = group.x + group.y * groups.x;
    let tiles = (p.c_pitch + TILE - 1u) / TILE;
    let first_row = tile / tiles * TILE;
    let first_column = tile % tiles * TILE;
    if first_row >= p.rows {
        return;
    }
    let up = lane / 8u;
    let along = lane % 8u;
    let row = first_row + 4u * up;
    let column = first_column + 4u * along;

    var acc = array<vec4<f32>, 4>();
    if p.add != 0u && column < p.c_pitch {
        for (var i = 0u; i < 4u; i += 1u) {
            if row + i < p.rows {
                acc[i] = load_c(((row + i) * p.c_pitch + column) / 4u);
            }
        }
    }
    for (var k = 0u; k < p.k; k += DEPTH) {
        workgroupBarrier(); // the last 16 k have been used by all
        for (var i = lane; i < 128u; i += GROUP) {
            xs[i] = part_x(i, first_row, k);
            ys[i] = part_y(i, first_column, k);
        }
        workgroupBarrier(); // both operands are there
%% if form == "nt"
        for (var q = 0u; q < 4u; q += 1u) {
            let y0 = ys[16u * along + q];
            let y1 = ys[16u * along + 4u + q];
            let y2 = ys[16u * along + 8u + q];
            let y3 = ys[16u * along + 12u + q];
            for (var i = 0u; i < 4u; i += 1u) {
                let a = xs[16u * up + 4u * i + q];
                acc[i] += vec4<f32>(dot(a, y0), dot(a, y1), dot(a, y2), dot(a, y3));
            }
        }
%% elif form == "nn"
        for (var q = 0u; q < 4u; q += 1u) {
            let y0 = ys[32u * q + along];
            let y1 = ys[32u * q + 8u + along];
            let y2 = ys[32u * q + 16u + along];
            let y3 = ys[32u * q + 24u + along];
            for (var i = 0u; i < 4u; i += 1u) {
                let a = xs[16u * up + 4u * i + q];
                acc[i] += a.x * y0;
                acc[i] += a.y * y1;
                acc[i] += a.z * y2;
                acc[i] += a.w * y3;
            }
        }
%% else
        for (var q = 0u; q < DEPTH; q += 1u) {
            let a = xs[8u * q + up];
            let y = ys[8u * q + along];
            acc[0] += a.x * y;
            acc[1] += a.y * y;
            acc[2] += a.z * y;
            acc[3] += a.w * y;
        }
%% endif
    }
    if column < p.c_pitch {
        for (var i = 0u; i < 4u; i += 1u) {
            if row + i < p.rows {
                store_c(((row + i) * p.c_pitch + column) / 4u, acc[i] * p.factor);
            }
        }
    }
}
%% else
struct Params { first: u32, rows: u32, m: u32, pitch: u32, factor: f32 }
var<immediate> p: Params;

%% set next = namespace(binding=1)
@group(0) @binding(0) var<storage, read_write> scores: array<f32>;
%% if owners
@group(0) @binding(1) var<storage, read> owners: array<u32>;
%% set next.binding = 2
%% endif
@group(0) @binding(${next.binding}) var<storage, read_write> losses: array<f32>;

const GROUP: u32 = 64u;
${group_sum(subgroups)}
// The largest value, in every invocation.
fn group_max(value: f32, who: Who) -> f32 {
%% if subgroups
    let s = subgroupMax(value);
    workgroupBarrier(); // partial[] of the previous reduction has been read by all
    if who.subgroup_lane == 0u {
        partial[who.subgroup] = s;
    }
    workgroupBarrier(); // every subgroup's maximum is in partial[]
    var largest = partial[0];
    for (var i = 1u; i < who.n_subgroups; i += 1u) {
        largest = max(largest, partial[i]);
    }
    return largest;
%% else
    workgroupBarrier(); // partial[0] of the previous reduction has been read by all
    partial[who.lane] = value;
    workgroupBarrier(); // all values are in partial[]
    for (var width = GROUP / 2u; width > 0u; width /= 2u) {
        if who.lane < width {
            partial[who.lane] = max(partial[who.lane], partial[who.lane + width]);
        }
        workgroupBarrier(); // this level is done
    }
    return partial[0];
%% endif
}

// Whether an anchor sees candidate j.
fn sees(anchor: u32, j: u32) -> bool {
%% if owners
    return owners[j] == 0xffffffffu || owners[j] == anchor;
%% else
    return true;
%% endif
}

@compute @workgroup_size(GROUP)
fn info_nce_softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
    let row = group.x + group.y * groups.x;
    if row >= p.rows {
        return;
    }
${who_value(subgroups)}
    let base = row * p.pitch;
    let anchor = p.first + row;

    // Read by all before it is overwritten: there are barriers in between.
    let positive = scores[base + anchor];
    var largest = positive;
    for (var j = lane; j < p.m; j += GROUP) {
        if sees(anchor, j) {
            largest = max(largest, scores[base + j]);
        }
    }
    largest = group_max(largest, who);

    // Numerators, and the sum of all but the positive's; columns beyond m become zero.
    var sum = 0.0;
    for (var j = lane; j < p.pitch; j += GROUP) {
        var e = 0.0;
        if j < p.m && sees(anchor, j) {
            e = exp(scores[base + j] - largest);
        }
        scores[base + j] = e;
        if j != anchor {
            sum += e;
        }
    }
    let others = group_sum(sum, who);
    let total = others + exp(positive - largest);
    if lane == 0u {
        losses[row] = (largest - positive) + log(total);
    }
    // An invocation meets the elements that it has written.
    let factor = p.factor / total;
    for (var j = lane; j < p.m; j += GROUP) {
        scores[base + j] = select(scores[base + j], -others, j == anchor) * factor;
    }
}
%% endif
