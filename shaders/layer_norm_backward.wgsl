%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_group_sum.wgsl" import group_sum, who_inputs, who_value
// layer_norm_backward.wgsl - the gradient of layer norm: of its input, and of weight and bias
// Computes   dx = (g - mean(g) - z mean(g z)) rstd,  g = dy weight,  z = (v - mean(v)) rstd,  v = x + residual,
//            rstd = 1 / sqrt(var(v) + eps);  d_weight += sum of dy z over rows, d_bias += sum of dy over rows
// Twins      src/ops/layer_norm_backward/ (definition, reference), kernels/layer_norm_backward.ptx
// Entry      variant `stage` = rows: layer_norm_backward; sums: layer_norm_backward_sums
//
// Shapes     x, dy, dx [rows, d] f32; residual [rows, d] f16 or f32, or absent (variant `residual`); weight, d_weight,
//            d_bias [d] f32; dx_act [rows, d] f16 or f32, or absent (variant `act`); sums [pieces, 2, d] f32, scratch:
//            of each piece of `piece` rows what it adds to d_weight and to d_bias
// Layout     row-major, 16-byte aligned, no aliasing
// Requires   d % 8 == 0, d <= 256 steps (variant `steps`: 2 or 4)
//
// Launch     rows: one workgroup of 64 per piece, spread over x and y; sums: d / 8 workgroups of 64
// Mapping    rows: invocation i holds elements 4 i .. 4 i + 3, then 4 (i + 64) .. and so on of a row, and of both sums.
//            sums: invocation 4 k + u adds the four columns of unit u of four, of pieces k, k + 16, ..
// Memory     rows: 64 f32 of workgroup memory for sums; sums: 1,024 B
// Sync       rows: four group sums a row (_group_sum.wgsl); sums: one barrier
// Limits     none beyond the defaults
//
// Work       16 rows d
// Traffic    rows d (12 + sizeof(residual) + sizeof(dx_act)) + 16 d pieces bytes
// Roofline   memory bound (1 FLOP/B)
// Measured   see benches/results
//
// Numerics   two passes for z as in the forward, sums in fixed order; bound in error_bound of the twin
// Edges      rows = 0: not launched; NaN in -> its row of dx is NaN, and what is added to d_weight
//
//   per row: z = (v - mean) rstd; g = dy weight; d_weight[] += dy z; d_bias[] += dy
//            dx = (g - sum(g) / d - z sum(g z) / d) rstd
//   per piece: sums = d_weight[], d_bias[]
%% if stage == "rows"
struct Params { rows: u32, d: u32, piece: u32, eps: f32 }
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
${array(next.binding + 1, "dy", "f32", "read", native)}
${array(next.binding + 2, "dx", "f32", "read_write", native)}
%% set next.binding = next.binding + 3
%% if act != "none"
${array(next.binding, "dx_act", act, "read_write", native)}
%% set next.binding = next.binding + 1
%% endif
${array(next.binding, "sums", "f32", "read_write", native)}

const GROUP: u32 = 64u;
${group_sum(subgroups)}
fn sum4(v: vec4<f32>) -> f32 { return v.x + v.y + v.z + v.w; }

@compute @workgroup_size(GROUP)
fn layer_norm_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
${who_inputs(subgroups)}
) {
    let piece = group.x + group.y * groups.x;
    let first = piece * p.piece;
    if first >= p.rows {
        return;
    }
${who_value(subgroups)}
    let end = min(first + p.piece, p.rows);
    let n = f32(d4() * 4u);
%% for s in range(steps)
    let c_${s} = lane + ${64 * s}u;
    let in_${s} = c_${s} < d4();
    var weight_${s} = vec4<f32>();
    if in_${s} {
        weight_${s} = load_weight(c_${s});
    }
    var d_weight_${s} = vec4<f32>();
    var d_bias_${s} = vec4<f32>();
%% endfor

    for (var row = first; row < end; row += 1u) {
        let base = row * d4();
        // Beyond the row everything stays zero.
        var sum = vec4<f32>();
%% for s in range(steps)
        var z_${s} = vec4<f32>();
        var g_${s} = vec4<f32>();
        if in_${s} {
            z_${s} = load_x(base + c_${s});
%% if residual != "none"
            z_${s} += load_residual(base + c_${s});
%% endif
            g_${s} = load_dy(base + c_${s});
        }
        sum += z_${s};
%% endfor
        let mean = group_sum(sum4(sum), who) / n;

        var squares = vec4<f32>();
%% for s in range(steps)
        z_${s} = select(vec4<f32>(), z_${s} - mean, in_${s});
        squares += z_${s} * z_${s};
%% endfor
        let rstd = 1.0 / sqrt(group_sum(sum4(squares), who) / n + p.eps);

        var g_sum = vec4<f32>();
        var dot_sum = vec4<f32>();
%% for s in range(steps)
        z_${s} *= rstd;
        d_weight_${s} += g_${s} * z_${s};
        d_bias_${s} += g_${s};
        g_${s} *= weight_${s};
        g_sum += g_${s};
        dot_sum += g_${s} * z_${s};
%% endfor
        let a = group_sum(sum4(g_sum), who) / n;
        let b = group_sum(sum4(dot_sum), who) / n;
%% for s in range(steps)
        if in_${s} {
            let out = (g_${s} - a - z_${s} * b) * rstd;
            store_dx(base + c_${s}, out);
%% if act != "none"
            store_dx_act(base + c_${s}, out);
%% endif
        }
%% endfor
    }

%% for s in range(steps)
    if in_${s} {
        store_sums(2u * piece * d4() + c_${s}, d_weight_${s});
        store_sums((2u * piece + 1u) * d4() + c_${s}, d_bias_${s});
    }
%% endfor
}
%% else
struct Params { pieces: u32, d: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "sums", "f32", "read", native)}
${array(1, "d_weight", "f32", "read_write", native)}
${array(2, "d_bias", "f32", "read_write", native)}

var<workgroup> partial: array<vec4<f32>, 64>; // [16 groups][4 units]

@compute @workgroup_size(64)
fn layer_norm_backward_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // d4() is even, so that four units are never too many.
    let unit = group.x * 4u + lane % 4u;
    var sum = vec4<f32>();
    for (var piece = lane / 4u; piece < p.pieces; piece += 16u) {
        sum += load_sums(2u * piece * d4() + unit);
    }
    partial[lane] = sum;
    workgroupBarrier(); // all sums are in partial[]
    if lane < 4u {
        for (var k = 1u; k < 16u; k += 1u) {
            sum += partial[4u * k + lane];
        }
        if unit < d4() {
            store_d_weight(unit, load_d_weight(unit) + sum);
        } else {
            store_d_bias(unit - d4(), load_d_bias(unit - d4()) + sum);
        }
    }
}
%% endif
