%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
// batch_norm.wgsl - weighted mean and variance of every channel
// Computes   mean = sum_r w_r x[r,:] / W, variance = sum_r w_r (x[r,:] - mean)^2 / W, W = total = sum_r w_r
// Twins      src/ops/batch_norm/ (definition, reference), kernels/batch_norm.ptx
// Entry      variant `stage` = pieces: batch_norm; join: batch_norm_join
//
// Shapes     x [n, c] f16 or f32 (variant `act`); weights [n] f32; moments [pieces, 2, c] f32, scratch: of each piece of 64
//            rows its mean and its sum of w (x - mean)^2; masses [pieces] f32, scratch: its sum of w; mean, variance [c] f32
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   c % 8 == 0; slabs = ceil(c / 64); pieces = ceil(n / 64)
//
// Launch     pieces: pieces slabs workgroups of 64, slab fastest, spread over x and y; join: c / 8 workgroups of 64
// Mapping    pieces: invocation 16 g + k has four channels of rows g, g + 4, .. of its piece, which it reads twice; join:
//            invocation 8 g + k has channel 8 group + k of pieces g, g + 8, ..
// Memory     pieces: 1,040 B of workgroup memory; join: 256 B
// Sync       three barriers
// Limits     none beyond the defaults
//
// Work       6 n c
// Traffic    n c elements (the second time from cache) + 4 n slabs + 16 c pieces bytes
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   the variance of all is that within the pieces and that of their means, a sum of squares in which nothing
//            cancels; sums in fixed order; bound in error_bound of the twin
// Edges      n = 0: not launched; a piece of weight 0 counts for nothing; NaN stays in its channel
%% if stage == "pieces"
struct Params { n: u32, c: u32, slabs: u32 }
var<immediate> p: Params;

${array(0, "x", act, "read", native)}
@group(0) @binding(1) var<storage, read> weights: array<f32>;
${array(2, "moments", "f32", "read_write", native)}
@group(0) @binding(3) var<storage, read_write> masses: array<f32>;

const ROWS: u32 = 64u;
var<workgroup> sums: array<vec4<f32>, 64>; // [4 groups][16 vectors]
var<workgroup> totals: array<f32, 4>;

@compute @workgroup_size(64)
fn batch_norm(
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
    var sum = vec4<f32>();
    var total = 0.0;
    for (var row = first + lane / 16u; row < end; row += 4u) {
        let w = weights[row];
        total += w;
        if unit < c4 {
            sum += w * load_x(row * c4 + unit);
        }
    }
    sums[lane] = sum;
    if lane % 16u == 0u {
        totals[lane / 16u] = total;
    }
    workgroupBarrier(); // sums and totals of all groups are there
    let column = lane % 16u;
    total = totals[0] + totals[1] + totals[2] + totals[3];
    sum = sums[column] + sums[16u + column] + sums[32u + column] + sums[48u + column];
    let mean = select(vec4<f32>(), sum / total, total > 0.0);
    workgroupBarrier(); // and have been read
    sum = vec4<f32>();
    for (var row = first + lane / 16u; row < end; row += 4u) {
        if unit < c4 {
            let deviation = load_x(row * c4 + unit) - mean;
            sum += weights[row] * (deviation * deviation);
        }
    }
    sums[lane] = sum;
    workgroupBarrier(); // squares of all groups are there
    if lane < 16u && unit < c4 {
        store_moments(2u * piece * c4 + unit, mean);
        sum = sums[lane] + sums[16u + lane] + sums[32u + lane] + sums[48u + lane];
        store_moments((2u * piece + 1u) * c4 + unit, sum);
        if unit == 0u {
            masses[piece] = total;
        }
    }
}
%% else
struct Params { pieces: u32, c: u32, total: f32 }
var<immediate> p: Params;

@group(0) @binding(0) var<storage, read> moments: array<f32>;
@group(0) @binding(1) var<storage, read> masses: array<f32>;
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;
@group(0) @binding(3) var<storage, read_write> variance: array<f32>;

var<workgroup> sums: array<f32, 64>; // [8 groups][8 channels]

// Of this invocation's channel, the groups in their order.
fn over_groups(column: u32) -> f32 {
    var sum = sums[column];
    for (var g = 1u; g < 8u; g += 1u) {
        sum += sums[8u * g + column];
    }
    return sum;
}

@compute @workgroup_size(64)
fn batch_norm_join(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let channel = group.x * 8u + lane % 8u;
    var sum = 0.0;
    for (var piece = lane / 8u; piece < p.pieces; piece += 8u) {
        sum += masses[piece] * moments[2u * piece * p.c + channel];
    }
    sums[lane] = sum;
    workgroupBarrier(); // sums of all groups are there
    let center = over_groups(lane % 8u) / p.total;
    workgroupBarrier(); // and have been read
    sum = 0.0;
    for (var piece = lane / 8u; piece < p.pieces; piece += 8u) {
        let deviation = moments[2u * piece * p.c + channel] - center;
        sum += masses[piece] * (deviation * deviation) + moments[(2u * piece + 1u) * p.c + channel];
    }
    sums[lane] = sum;
    workgroupBarrier(); // squares of all groups are there
    if lane < 8u {
        mean[channel] = center;
        variance[channel] = over_groups(lane) / p.total;
    }
}
%% endif
