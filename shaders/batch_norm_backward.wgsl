%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// batch_norm_backward.wgsl - the gradient of normalisation with the statistics of a batch
// Computes   dx[r,:] = gamma rstd (d_y[r,:] - w_r / W (B + z[r,:] G)), z[r,:] = (x[r,:] - mean) rstd, rstd = 1 /
//            sqrt(variance + eps), G = sum over rows of d_y z, B = sum of d_y, W = total; d_gamma += G, d_beta += B, all by
//            channel
// Twins      src/ops/batch_norm_backward/ (definition, reference), kernels/batch_norm_backward.ptx
// Entry      by variant `stage`, in this order: batch_norm_backward_pieces, batch_norm_backward_sums, batch_norm_backward
//
// Shapes     x, d_y, dx [n, c] f16 or f32 (variant `act`); weights [n], mean, variance, gamma, d_gamma, d_beta [c] f32; sums
//            [pieces, 2, c] f32, scratch: of each piece of 64 rows the sums of d_y z and of d_y; totals [2, c] f32, scratch:
//            G, B
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   c % 8 == 0; slabs = ceil(c / 64); pieces = ceil(n / 64); units = c / 4
//
// Launch     pieces: pieces slabs workgroups of 64, slab fastest, spread over x and y; sums: c / 4 workgroups of 64; rows:
//            ceil(n units / 64) workgroups of 64, spread over x and y
// Mapping    pieces: invocation 16 g + k has four channels of rows g, g + 4, .. of its piece; sums: invocation 8 g + k has
//            column 8 group + k of pieces g, g + 8, ..; rows: one invocation has four channels of a row
// Memory     pieces: 2,048 B of workgroup memory; sums: 256 B
// Sync       pieces, sums: one barrier
// Limits     none beyond the defaults
//
// Work       12 n c
// Traffic    5 n c elements + 4 n + 16 c pieces bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   sums in fixed order; bound in error_bound of the twin
// Edges      n = 0: not launched; NaN in x or d_y -> its channel of dx is NaN
%% if stage == "pieces"
struct Params { n: u32, c: u32, slabs: u32, eps: f32 }
var<immediate> p: Params;

${array(0, "x", act, "read", native)}
${array(1, "mean", "f32", "read", native)}
${array(2, "variance", "f32", "read", native)}
${array(3, "d_y", act, "read", native)}
${array(4, "sums", "f32", "read_write", native)}

const ROWS: u32 = 64u;
var<workgroup> dots: array<vec4<f32>, 64>;   // [4 groups][16 vectors]
var<workgroup> plain: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn batch_norm_backward_pieces(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = group.x + group.y * groups.x;
    let piece = place / p.slabs;
    let first = piece * ROWS;
    if first >= p.n {
        return;
    }
    let end = min(first + ROWS, p.n);
    // Vectors of four.
    let c4 = p.c / 4u;
    let unit = place % p.slabs * 16u + lane % 16u;
    var dot_sum = vec4<f32>();
    var sum = vec4<f32>();
    if unit < c4 {
        let center = load_mean(unit);
        let rstd = 1.0 / sqrt(load_variance(unit) + p.eps);
        for (var row = first + lane / 16u; row < end; row += 4u) {
            let gradient = load_d_y(row * c4 + unit);
            dot_sum += gradient * ((load_x(row * c4 + unit) - center) * rstd);
            sum += gradient;
        }
    }
    dots[lane] = dot_sum;
    plain[lane] = sum;
    workgroupBarrier(); // sums of all groups are there
    if lane < 16u && unit < c4 {
        for (var g = 1u; g < 4u; g += 1u) {
            dot_sum += dots[16u * g + lane];
            sum += plain[16u * g + lane];
        }
        store_sums(2u * piece * c4 + unit, dot_sum);
        store_sums((2u * piece + 1u) * c4 + unit, sum);
    }
}
%% elif stage == "sums"
struct Params { pieces: u32, c: u32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> d_gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> d_beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> totals: array<f32>;

var<workgroup> partial: array<f32, 64>; // [8 groups][8 columns]

@compute @workgroup_size(64)
fn batch_norm_backward_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = group.x * 8u + lane % 8u;
    var sum = 0.0;
    for (var piece = lane / 8u; piece < p.pieces; piece += 8u) {
        sum += sums[2u * piece * p.c + column];
    }
    partial[lane] = sum;
    workgroupBarrier(); // sums of all groups are there
    if lane < 8u {
        for (var g = 1u; g < 8u; g += 1u) {
            sum += partial[8u * g + lane];
        }
        totals[column] = sum;
        if column < p.c {
            d_gamma[column] += sum;
        } else {
            d_beta[column - p.c] += sum;
        }
    }
}
%% else
struct Params { n: u32, units: u32, total: f32, eps: f32 }
var<immediate> p: Params;

${array(0, "x", act, "read", native)}
@group(0) @binding(1) var<storage, read> weights: array<f32>;
${array(2, "mean", "f32", "read", native)}
${array(3, "variance", "f32", "read", native)}
${array(4, "gamma", "f32", "read", native)}
${array(5, "d_y", act, "read", native)}
${array(6, "totals", "f32", "read", native)}
${array(7, "dx", act, "read_write", native)}

@compute @workgroup_size(64)
fn batch_norm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.n * p.units {
        return;
    }
    let unit = i % p.units;
    let rstd = 1.0 / sqrt(load_variance(unit) + p.eps);
    let z = (load_x(i) - load_mean(unit)) * rstd;
    let through = weights[i / p.units] / p.total * (load_totals(p.units + unit) + z * load_totals(unit));
    store_dx(i, load_gamma(unit) * rstd * (load_d_y(i) - through));
}
%% endif
