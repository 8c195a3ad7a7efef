%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// layer_norm.wgsl - layer norm over rows, with a residual added first and a rounded second copy of the result
// Computes   y = (v - mean(v)) / sqrt(var(v) + eps) * weight + bias,  v = x + residual
// Twins      src/ops/layer_norm/ (definition, reference), kernels/layer_norm.ptx
// Entry      layer_norm
//
// Shapes     x, y [rows, d] f32; residual [rows, d] f16 or f32, or absent (variant `residual`); weight [d] f32;
//            bias [d] f32 or absent (variant `bias`); y_act [rows, d] f16 or absent (variant `act`)
// Layout     row-major, 16-byte aligned; y must not alias x or residual
// Requires   d % 8 == 0
//
// Launch     one workgroup of 64 per row, spread over x and y
// Mapping    invocation i takes elements 4 i .. 4 i + 3, then 4 (i + 64) .. and so on
// Memory     64 f32 of workgroup memory for sums
// Sync       per sum: two barriers and one per halving (6), two with subgroups (_group_sum.wgsl)
// Limits     none beyond the defaults
//
// Work       8 rows d
// Traffic    rows d (8 + sizeof(residual) + 2 act) + 8 d bytes; the row is re-read from cache twice
// Roofline   memory bound (under 1 FLOP/B)
// Measured   see benches/results
//
// Numerics   two passes (mean, then squared deviations), sums in a fixed tree; bound in error_bound of the twin
// Edges      rows = 0: not launched; NaN in -> the row is NaN
//
//   v    = x + residual                    re-computed in each pass, bit for bit the same
//   mean = sum(v) / d
//   rstd = 1 / sqrt(sum((v - mean)^2) / d + eps)
//   y    = (v - mean) * rstd * weight + bias
struct Params { rows: u32, d: u32, eps: f32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

%% set next = namespace(binding=1)
${array(0, "x", "f32", "read", native)}
%% if residual != "none"
${array(next.binding, "residual", residual, "read", native)}
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "weight", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% if bias
${array(next.binding, "bias", "f32", "read", native)}
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "y", "f32", "read_write", native)}
%% set next.binding = next.binding + 1
%% if act
${array(next.binding, "y_act", "f16", "read_write", native)}
%% endif

const GROUP: u32 = 64u;
${group_sum(subgroups)}
fn row_value(i: u32) -> vec4<f32> {
%% if residual != "none"
    return load_x(i) + load_residual(i);
%% else
    return load_x(i);
%% endif
}

@compute @workgroup_size(GROUP)
fn layer_norm(
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
    let base = row * d4();
    let n = f32(d4() * 4u);

    var sum = vec4<f32>();
    for (var c = lane; c < d4(); c += GROUP) {
        sum += row_value(base + c);
    }
    let mean = group_sum(sum.x + sum.y + sum.z + sum.w, who) / n;

    var squares = vec4<f32>();
    for (var c = lane; c < d4(); c += GROUP) {
        let deviation = row_value(base + c) - mean;
        squares += deviation * deviation;
    }
    let variance = group_sum(squares.x + squares.y + squares.z + squares.w, who) / n;
    let rstd = 1.0 / sqrt(variance + p.eps);

    for (var c = lane; c < d4(); c += GROUP) {
        var out = (row_value(base + c) - mean) * rstd * load_weight(c);
%% if bias
        out += load_bias(c);
%% endif
        store_y(base + c, out);
%% if act
        store_y_act(base + c, out);
%% endif
    }
}
