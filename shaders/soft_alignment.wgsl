%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_token_products.wgsl" import token_products
// soft_alignment.wgsl - how well the tokens of a document answer those of a query in about the same places
// Computes   mean over i of sum over j of A_ij M_ij, A_i = softmax_j((M_ij - distance |i - j|) / temperature), M_ij =
//            q_i . c_j, less monotonicity times the mean over neighbours of max(p_i - p_(i+1), 0)^2, p_i = sum_j A_ij j
// Twins      src/ops/soft_alignment/ (definition, reference), kernels/soft_alignment.ptx
// Entry      soft_alignment
//
// Shapes     queries [t_q, d], documents [t_c, d] f16 or f32 (variant `tokens`); offsets [n_q + 1], [n_c + 1] u32;
//            pairs [p, 2] u32 of (query, document); scores [p] f32; band: the largest |i - j| that counts
// Layout     row-major, token rows 16-byte aligned; the binding of documents begins at row first_row
// Requires   d % 8 == 0; temperature > 0
//
// Launch     one workgroup of 64 per pair, spread over x and y; pairs with documents that are not among first_document
//            .. end_document are passed over
// Mapping    an invocation takes document tokens i, i + 64, .. against eight query tokens at a time
// Memory     8,192 B of workgroup memory: the invocations' running softmax
// Sync       eight barriers per eight query tokens
// Limits     none beyond the defaults
//
// Work       2 l_q l_c d FLOP and l_q l_c exponentials per pair
// Traffic    l_c d ceil(l_q / 8) elements per pair, all but the first time from cache
// Roofline   memory bound up to some ten query tokens
// Measured   see benches/results
//
// Numerics   dot products in f32, four partial sums; softmax with a running maximum, merged in a fixed tree; bound in
//            error_bound of the twin
// Edges      a query token without candidates counts as 0 and is no neighbour; an empty query scores 0
struct Params {
    d: u32, band: u32, distance: f32, temperature: f32, monotonicity: f32,
    count: u32, first_document: u32, end_document: u32, first_row: u32,
}
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "queries", tokens, "read", native)}
@group(0) @binding(1) var<storage, read> query_offsets: array<u32>;
${array(2, "documents", tokens, "read", native)}
@group(0) @binding(3) var<storage, read> document_offsets: array<u32>;
@group(0) @binding(4) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;

const GROUP: u32 = 64u;
const TOKENS: u32 = 8u;
const LOWEST: f32 = -1.0e30;
${token_products()}

// Running softmax [query token][invocation]: the maximum; the sums of weights, weights x products, weights x positions.
var<workgroup> running: array<vec4<f32>, 512>;

fn merge(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let largest = max(a.x, b.x);
    return vec4<f32>(largest, a.yzw * exp(a.x - largest) + b.yzw * exp(b.x - largest));
}

@compute @workgroup_size(GROUP)
fn soft_alignment(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = group.x + group.y * groups.x;
    if pair >= p.count {
        return;
    }
    let query = pairs[pair].x;
    let document = pairs[pair].y;
    if document < p.first_document || document >= p.end_document {
        return;
    }
    let first_q = query_offsets[query];
    let l_q = query_offsets[query + 1u] - first_q;
    let first_c = document_offsets[document];
    let l_c = document_offsets[document + 1u] - first_c;

    var score = 0.0;
    var penalty = 0.0;
    var neighbours = 0.0;
    var before = -1.0; // no position yet
    for (var token = 0u; token < l_q; token += TOKENS) {
        var own: array<vec4<f32>, 8>;
        for (var i = 0u; i < TOKENS; i += 1u) {
            own[i] = vec4<f32>(LOWEST, 0.0, 0.0, 0.0);
        }
        for (var j = lane; j < l_c; j += GROUP) {
            let found = products(first_q, token, l_q, first_c + j - p.first_row, d4());
            for (var i = 0u; i < TOKENS; i += 1u) {
                let steps = max(token + i, j) - min(token + i, j);
                if steps <= p.band {
                    let logit = (found[i] - p.distance * f32(steps)) / p.temperature;
                    own[i] = merge(own[i], vec4<f32>(logit, 1.0, found[i], f32(j)));
                }
            }
        }
        workgroupBarrier(); // the last tokens' sums have been read
        for (var i = 0u; i < TOKENS; i += 1u) {
            running[i * GROUP + lane] = own[i];
        }
        workgroupBarrier(); // all sums are there
        for (var width = GROUP / 2u; width > 0u; width /= 2u) {
            if lane < width {
                for (var i = 0u; i < TOKENS; i += 1u) {
                    let at = i * GROUP + lane;
                    running[at] = merge(running[at], running[at + width]);
                }
            }
            workgroupBarrier(); // this level is merged
        }
        for (var i = 0u; i < min(TOKENS, l_q - token); i += 1u) {
            let sums = running[i * GROUP];
            if sums.y > 0.0 {
                score += sums.z / sums.y;
                let position = sums.w / sums.y;
                if before >= 0.0 {
                    let back = max(before - position, 0.0);
                    penalty += back * back;
                    neighbours += 1.0;
                }
                before = position;
            } else {
                before = -1.0;
            }
        }
    }
    score /= f32(max(l_q, 1u));
    if p.monotonicity > 0.0 && neighbours > 0.0 {
        score -= p.monotonicity * penalty / neighbours;
    }
    if lane == 0u {
        scores[pair] = score;
    }
}
