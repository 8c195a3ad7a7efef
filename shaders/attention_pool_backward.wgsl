%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_philox.wgsl" import philox
// attention_pool_backward.wgsl - the gradient of pooling by attention
// Computes   of each text i, over its rows j: dp_j = m_j (dz . rows[j,:] + dw), ds_j = p_j (dp_j - sum_k p_k dp_k);
//            d_queries[i,:] = scale sum_j ds_j rows[j,:], d_rows[j,:] = m_j p_j dz + scale ds_j queries[i,:]; dz =
//            d_out[i,0 .. d - 1], dw = d_out[i,d], p = probabilities, m_j = kept or, where row j is dropped, 0 (variant
//            `dropout`; else 1)
// Twins      src/ops/attention_pool_backward/ (definition, reference), kernels/attention_pool_backward.ptx
// Entry      attention_pool_backward
//
// Shapes     queries, d_queries [n, d], rows [t, d], d_out [n, d + 8] f16 or f32 (variant `act`); offsets [n + 1] u32;
//            origins [t, 2] u32: position, number of the text (absent without `dropout`); probabilities [t], d_rows
//            [t, d] f32. Words of dropout as in attention_pool.wgsl
// Layout     row-major, last axis contiguous, 16-byte aligned, no aliasing
// Requires   d % 8 == 0, d <= 256 steps (variant `steps`: 2 or 4)
//
// Launch     n workgroups of 64, spread over x and y: one per text
// Mapping    eight rows at a time. First invocation 8 r + k multiplies every eighth vector of four of row r with dz, and
//            invocation r adds the eight sums up. Then invocation i adds vectors i, i + 64, .. of the rows to d_query,
//            and writes those of d_rows
// Memory     352 B of workgroup memory
// Sync       two barriers per eight rows in either pass, one between them; dp_j and m_j wait at the beginning of row j of
//            d_rows, written and read by one and the same invocation, which others overwrite behind a barrier
// Limits     none beyond the defaults
//
// Work       8 t d
// Traffic    2 t d elements read (the second time from cache), 3 n d; 4 t d bytes written
// Roofline   memory bound
// Measured   see benches/results
//
// Numerics   sums in fixed order; bound in error_bound of the twin
// Edges      n = 0: not launched; an empty text gives a zero d_query; NaN or infinity in a row or in d_out -> NaN in its
//            text
struct Params { d: u32, scale: f32, threshold: u32, kept: f32, key_0: u32, key_1: u32, texts: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

%% set behind = 4 if dropout else 3
${array(0, "queries", act, "read", native)}
${array(1, "rows", act, "read", native)}
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
%% if dropout
@group(0) @binding(3) var<storage, read> origins: array<vec2<u32>>;
%% endif
@group(0) @binding(${behind}) var<storage, read> probabilities: array<f32>;
${array(behind + 1, "d_out", act, "read", native)}
${array(behind + 2, "d_queries", act, "read_write", native)}
${array(behind + 3, "d_rows", "f32", "read_write", native)}

%% if dropout
${philox()}
%% endif
const GROUP: u32 = 64u;
const ROWS: u32 = 8u;

var<workgroup> partial: array<f32, 64>;  // [8 rows][8 parts]
var<workgroup> means: array<f32, 8>;     // sum p dp, in eight parts
var<workgroup> shares: array<vec2<f32>, 8>; // scale ds, m p

@compute @workgroup_size(GROUP)
fn attention_pool_backward(
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
    let gradient = text * (d4() + 2u);

    // ---- dp, and the sum of p dp ----
    var mean = 0.0;
    for (var start = 0u; start < count; start += ROWS) {
        let row = start + lane / 8u;
        var product = 0.0;
        if row < count {
            for (var c = lane % 8u; c < d4(); c += 8u) {
                product += dot(load_d_out(gradient + c), load_rows((first + row) * d4() + c));
            }
        }
        partial[lane] = product;
        workgroupBarrier(); // all products are in partial[]
        let here = start + lane;
        if lane < ROWS && here < count {
            var dp = 0.0;
            for (var k = 0u; k < 8u; k += 1u) {
                dp += partial[8u * lane + k];
            }
            dp += load_d_out(gradient + d4()).x;
            var m = 1.0;
%% if dropout
            let number = origins[first].y;
            let words = philox(vec2<u32>(p.key_0, p.key_1), vec4<u32>(here / 4u, 0u, number, 0u));
            m = select(p.kept, 0.0, words[here % 4u] < p.threshold);
            dp *= m;
%% endif
            mean += probabilities[first + here] * dp;
            store_d_rows((first + here) * d4(), vec4<f32>(dp, m, 0.0, 0.0));
        }
        workgroupBarrier(); // partial[] has been read
    }
    if lane < ROWS {
        means[lane] = mean;
    }
    workgroupBarrier(); // means[] are complete
    mean = means[0];
    for (var k = 1u; k < ROWS; k += 1u) {
        mean += means[k];
    }

    // ---- Results ----
%% for s in range(steps)
    let c_${s} = lane + ${64 * s}u;
    var acc_${s} = vec4<f32>();
    var dz_${s} = vec4<f32>();
    var query_${s} = vec4<f32>();
    if c_${s} < d4() {
        dz_${s} = load_d_out(gradient + c_${s});
        query_${s} = load_queries(text * d4() + c_${s});
    }
%% endfor
    for (var start = 0u; start < count; start += ROWS) {
        let here = start + lane;
        if lane < ROWS && here < count {
            let kept = load_d_rows((first + here) * d4());
            let probability = probabilities[first + here];
            let ds = probability * (kept.x - mean);
            shares[lane] = vec2<f32>(p.scale * ds, kept.y * probability);
        }
        workgroupBarrier(); // shares[] are complete
        for (var r = 0u; r < min(ROWS, count - start); r += 1u) {
            let share = shares[r];
            let base = (first + start + r) * d4();
%% for s in range(steps)
            if c_${s} < d4() {
                acc_${s} += share.x * load_rows(base + c_${s});
                store_d_rows(base + c_${s}, share.y * dz_${s} + share.x * query_${s});
            }
%% endfor
        }
        workgroupBarrier(); // shares[] have been read
    }
%% for s in range(steps)
    if c_${s} < d4() {
        store_d_queries(text * d4() + c_${s}, acc_${s});
    }
%% endfor
}
