%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_token_products.wgsl" import token_products
// maxsim.wgsl - late interaction: how well the tokens of a document answer those of a query, maps never stored
// Computes   score = sum over query tokens i of max over document tokens j of q_i . c_j, or its mean over i
// Twins      src/ops/maxsim/ (definition, reference), kernels/maxsim.ptx
// Entry      maxsim
//
// Shapes     queries [t_q, d], documents [t_c, d] f16 or f32 (variant `tokens`); offsets [n_q + 1], [n_c + 1] u32;
//            pairs [p, 2] u32 of (query, document) (variant `pairs`: listed); scores [p] f32, or [n_q, n_c] (all);
//            winners [p or n_q n_c, longest] u32 (variant `winners`): for each query token the position in its document
//            of the token that won, 0xffffffff where there is none
// Layout     row-major, 16-byte aligned; the binding of documents begins at row first_row
// Requires   d % 8 == 0; longest: at least the tokens of any query
//
// Launch     one workgroup of 64 per pair, spread over x and y; all: of all queries with the documents from
//            first_document to end_document; listed: those with other documents are passed over
// Mapping    an invocation takes document tokens i, i + 64, .. against eight query tokens at a time
// Memory     4,096 B of workgroup memory: the invocations' maxima and their positions
// Sync       seven barriers per eight query tokens
// Limits     none beyond the defaults
//
// Work       2 l_q l_c d FLOP per pair
// Traffic    l_c d ceil(l_q / 8) elements per pair, all but the first time from cache; query tokens are the same address
//            for the whole workgroup
// Roofline   memory bound up to some ten query tokens
// Measured   see benches/results
//
// Numerics   dot products in f32, four partial sums; maxima exact; query tokens added in order; bound in error_bound of
//            the twin. The lowest position wins among equal products
// Edges      an empty query or document: score 0, no winners; a NaN product never wins
struct Params {
    d: u32, longest: u32, mean: u32,
    count: u32, n_documents: u32, first_document: u32, end_document: u32, first_row: u32,
}
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

%% set next = namespace(binding=4)
${array(0, "queries", tokens, "read", native)}
@group(0) @binding(1) var<storage, read> query_offsets: array<u32>;
${array(2, "documents", tokens, "read", native)}
@group(0) @binding(3) var<storage, read> document_offsets: array<u32>;
%% if pairs == "listed"
@group(0) @binding(${next.binding}) var<storage, read> pairs: array<vec2<u32>>;
%% set next.binding = next.binding + 1
%% endif
@group(0) @binding(${next.binding}) var<storage, read_write> scores: array<f32>;
%% set next.binding = next.binding + 1
%% if winners
@group(0) @binding(${next.binding}) var<storage, read_write> winners: array<u32>;
%% endif

const GROUP: u32 = 64u;
const TOKENS: u32 = 8u;
const LOWEST: f32 = -3.4e38;
const NONE: u32 = 0xffffffffu;

${token_products()}
var<workgroup> maxima: array<f32, 512>;    // [query token][invocation]
var<workgroup> positions: array<u32, 512>;

@compute @workgroup_size(GROUP)
fn maxsim(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.x + group.y * groups.x;
    if index >= p.count {
        return;
    }
%% if pairs == "listed"
    let pair = index;
    let query = pairs[index].x;
    let document = pairs[index].y;
    if document < p.first_document || document >= p.end_document {
        return;
    }
%% else
    let here = p.end_document - p.first_document;
    let query = index / here;
    let document = p.first_document + index % here;
    let pair = query * p.n_documents + document;
%% endif
    let first_q = query_offsets[query];
    let l_q = query_offsets[query + 1u] - first_q;
    let first_c = document_offsets[document];
    let l_c = document_offsets[document + 1u] - first_c;

    var score = 0.0;
    for (var token = 0u; token < l_q; token += TOKENS) {
        var best: array<f32, 8>;
        var at: array<u32, 8>;
        for (var i = 0u; i < TOKENS; i += 1u) {
            best[i] = LOWEST;
            at[i] = NONE;
        }
        for (var j = lane; j < l_c; j += GROUP) {
            let found = products(first_q, token, l_q, first_c + j - p.first_row, d4());
            for (var i = 0u; i < TOKENS; i += 1u) {
                if found[i] > best[i] {
                    best[i] = found[i];
                    at[i] = j;
                }
            }
        }
        workgroupBarrier(); // the maxima of the last tokens have been read
        for (var i = 0u; i < TOKENS; i += 1u) {
            maxima[i * GROUP + lane] = best[i];
            positions[i * GROUP + lane] = at[i];
        }
        workgroupBarrier(); // all maxima are there
        for (var width = GROUP / 2u; width > 0u; width /= 2u) {
            if lane < width {
                for (var i = 0u; i < TOKENS; i += 1u) {
                    let own = i * GROUP + lane;
                    let other = own + width;
                    if maxima[other] > maxima[own]
                        || (maxima[other] == maxima[own] && positions[other] < positions[own]) {
                        maxima[own] = maxima[other];
                        positions[own] = positions[other];
                    }
                }
            }
            workgroupBarrier(); // this level is reduced
        }
        for (var i = 0u; i < min(TOKENS, l_q - token); i += 1u) {
            if positions[i * GROUP] != NONE {
                score += maxima[i * GROUP];
            }
%% if winners
            if lane == i {
                winners[pair * p.longest + token + i] = positions[i * GROUP];
            }
%% endif
        }
    }
%% if winners
    for (var i = l_q + lane; i < p.longest; i += GROUP) {
        winners[pair * p.longest + i] = NONE;
    }
%% endif
    if p.mean != 0u {
        score /= f32(max(l_q, 1u));
    }
    if lane == 0u {
        scores[pair] = score;
    }
}
