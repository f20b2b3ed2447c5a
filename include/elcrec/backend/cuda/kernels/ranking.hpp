#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/tile_product.hpp"
#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/bfloat16.hpp"
#include "elcrec/core/operations.hpp"

/// Ranks of targets and top k of U queries (U, D) over candidates of a table (V, D). Every score is the sum over the
/// columns in their order, each multiplication and addition rounded once, in whatever kernel and place: items that are
/// equal score equal to the bit. No score is kept beyond a block.
///
/// rank_targets: the target's score; then a block takes 64 queries and 1,024 items, in tiles of 64 x 64, and counts the
/// scores above it, whoever has seen the item; then the seen items are counted out (or in, with their score of 0). A
/// query reads V D / 16 bytes of items from L2, 2 V D operations: bound by arithmetic. 8.5 KB of shared memory.
///
/// top_k: a block takes 8 queries and 512 items, a thread two items with all 8 queries; the table is read from memory
/// once for every 8 queries: 4 V D bytes (2 V D of bfloat16), so a single query is bound by memory. A warp then picks a
/// query's best min(k, 512): the k-th largest of its lanes' largest scores bounds the k-th best from below, so only the
/// scores that reach it (k to some 2 k) are sorted. 34 KB of shared memory at D = 64. Eight sorted lists at a time are
/// merged, each candidate finding its place by binary searches in the other seven, until one is left.
namespace elcrec::inline ELCREC_TARGET::cuda {

namespace detail {

/// query · row, as the tiles of TileProduct sum it.
template <class T, class Element>
[[nodiscard]] __device__ T score(const T* query, const Element* row, int d) {
  T sum = 0;
  for (int c = 0; c < d; ++c) {
    sum = multiply_add(query[c], static_cast<T>(row[c]), sum);
  }
  return sum;
}

}  // namespace detail

// ---- ranks of targets ---------------------------------------------------------------------------------------------

/// What is known of the queries of rank_targets.
template <class T>
struct RankingQueries {
  MatrixView<const T> queries;
  MatrixView<const T> table;
  const ItemId* targets;
  const std::int32_t* offsets;
  const ItemId* seen;
  T* at_target;
  Index* ranks;

  /// Whether item v of this score comes before the target of query u: higher, or as high with a lower id.
  [[nodiscard]] __device__ bool before_target(Index u, Index v, T score) const {
    return v != targets[u] && (score > at_target[u] || (score == at_target[u] && v < targets[u]));
  }
  [[nodiscard]] __device__ int users() const { return static_cast<int>(queries.rows()); }
  [[nodiscard]] __device__ int columns() const { return static_cast<int>(queries.cols()); }
};

/// at_target, and ranks = 0
template <class T>
struct ScoreTargetsKernel {
  RankingQueries<T> q;
  bool seen_is_zero;

  __device__ void operator()() const {
    const Index u = global_thread();
    if (u >= q.users()) {
      return;
    }
    const ItemId target = q.targets[u];
    const int end = q.offsets[u + 1];
    const int at = lower_bound(q.seen, q.offsets[u], end, target);
    const bool zero = seen_is_zero && at < end && q.seen[at] == target;
    q.at_target[u] = zero ? T(0) : detail::score(q.queries.row(u), q.table.row(target), q.columns());
    q.ranks[u] = 0;
  }
};

/// ranks += how many items of the block's part come before the target
template <class T>
struct CountAboveKernel {
  using Product = TileProduct<T>;
  static constexpr int max_threads = Product::threads;
  static constexpr Index block_items = 1024;
  RankingQueries<T> q;
  Index first;
  Index last;

  __device__ void operator()() const {
    constexpr int own = Product::own;
    __shared__ typename Product::Shared operands;
    const int u0 = block_x() * Product::side;
    const Index begin = first + block_y() * block_items;
    const Index end = begin + block_items < last ? begin + block_items : last;
    int count[own] = {};
    for (Index v0 = begin; v0 < end; v0 += Product::side) {
      Product product;
      product.template accumulate<Product::Order::k_first>(
          operands, q.columns(), [&](int i, int k) { return u0 + i < q.users() ? q.queries(u0 + i, k) : T(0); },
          [&](int k, int j) { return v0 + j < end ? q.table(v0 + j, k) : T(0); });
      for (int i = 0; i < own; ++i) {
        const int u = u0 + own * product.y + i;
        for (int j = 0; j < own && u < q.users(); ++j) {
          const Index v = v0 + own * product.x + j;
          count[i] += v < end && q.before_target(u, v, product.sums[i][j]) ? 1 : 0;
        }
      }
    }
    for (int i = 0; i < own; ++i) {
      for (int reach = Product::threads_of_side / 2; reach > 0; reach /= 2) {
        count[i] += __shfl_xor_sync(whole_warp, count[i], reach);
      }
      const int u = u0 + thread_x() / Product::threads_of_side * own + i;
      if (thread_x() % Product::threads_of_side == 0 && u < q.users() && count[i] != 0) {
        add_to_rank(q.ranks[u], count[i]);
      }
    }
  }

  /// Sums of integers do not depend on their order.
  __device__ static void add_to_rank(Index& rank, Index amount) {
    static_assert(sizeof(Index) == sizeof(unsigned long long));
    atomicAdd(reinterpret_cast<unsigned long long*>(&rank), static_cast<unsigned long long>(amount));
  }
};

/// Takes seen items out of the counts, or counts them with a score of 0. A warp a query.
template <class T>
struct CorrectSeenKernel {
  static constexpr int max_threads = 128;
  RankingQueries<T> q;
  Index first;
  Index last;
  bool seen_is_zero;

  __device__ void operator()() const {
    const Index u = global_warp();
    if (u >= q.users()) {
      return;
    }
    const int end = lower_bound(q.seen, q.offsets[u], q.offsets[u + 1], last);
    int change = 0;
    const int begin = lower_bound(q.seen, q.offsets[u], end, first);
    for (int i = begin + lane(); i < end; i += warp_size) {
      const ItemId v = q.seen[i];
      const bool repeated = i > begin && v == q.seen[i - 1];
      if (!repeated) {
        change += seen_is_zero && q.before_target(u, v, T(0)) ? 1 : 0;
        change -= q.before_target(u, v, detail::score(q.queries.row(u), q.table.row(v), q.columns())) ? 1 : 0;
      }
    }
    change = warp_sum(change);
    if (lane() == 0) {
      q.ranks[u] += change;
    }
  }
};

/// Ids, offsets and ranks are device memory.
template <class T>
void rank_targets(const Stream& stream, CudaWorkspace& memory, const RankingRule& rule, MatrixView<const T> queries,
                  MatrixView<const T> table, std::span<const ItemId> targets, std::span<const std::int32_t> offsets,
                  std::span<const ItemId> seen, std::span<Index> ranks) {
  using Count = CountAboveKernel<T>;
  using Correct = CorrectSeenKernel<T>;
  constexpr Index threads = 64;
  const Index users = ssize(targets);
  const Index items = std::max<Index>(0, Index{rule.last} - rule.first);
  const bool zero = rule.seen == RankingRule::Seen::zero;
  const auto frame = memory.frame();
  const RankingQueries<T> q{queries,        table,       targets.data(),
                            offsets.data(), seen.data(), memory.template array<T>(users).data(),
                            ranks.data()};
  launch(stream, {.x = blocks_for(users, threads)}, {.x = threads}, 0, ScoreTargetsKernel<T>{q, zero});
  launch(stream, {.x = blocks_for(users, Count::Product::side), .y = blocks_for(items, Count::block_items)},
         {.x = Count::max_threads}, 0, Count{q, rule.first, rule.last});
  if (rule.seen != RankingRule::Seen::keep) {
    launch(stream, {.x = blocks_for(users, Correct::max_threads / warp_size)}, {.x = Correct::max_threads}, 0,
           Correct{q, rule.first, rule.last, zero});
  }
}

// ---- top k --------------------------------------------------------------------------------------------------------

/// Place in a sorted list that no candidate took: behind all candidates.
inline constexpr ItemId no_item = (std::numeric_limits<ItemId>::max)();

/// An item and its score; better ones first, the lower id among equals.
template <class T>
struct Candidate {
  T score;
  ItemId item;

  [[nodiscard]] __device__ static Candidate none() { return {-infinity<T>, no_item}; }
  [[nodiscard]] __device__ bool operator<(const Candidate& other) const {
    return score > other.score || (score == other.score && item < other.item);
  }
};

template <class T, class Element>
struct BlockTopKernel {
  static constexpr int users_of_block = 8;  // a warp each
  static constexpr int max_threads = users_of_block * warp_size;
  static constexpr int block_items = 512;
  static constexpr int item_threads = block_items / max_threads;  // items of a thread

  MatrixView<const T> queries;
  MatrixView<const Element> table;
  const std::int32_t* offsets;
  const ItemId* seen;
  RankingRule::Seen rule;
  Index first;
  Index last;
  int length;           // of a list: min(k, block_items)
  bool packed;          // rows of the table are whole packs
  Candidate<T>* lists;  // (U, blocks, length)

  [[nodiscard]] static std::size_t shared_bytes(Index columns) {
    return static_cast<std::size_t>(columns) * users_of_block * sizeof(T) +
           std::size_t{users_of_block} * block_items * sizeof(Candidate<T>);
  }

  __device__ void operator()() const {
    const int d = static_cast<int>(queries.cols());
    const int u0 = block_y() * users_of_block;
    const Index begin = first + Index{block_x()} * block_items;
    const Index end = begin + block_items < last ? begin + block_items : last;
    using Weights = Pack<T, users_of_block>;
    auto* const columns = dynamic_shared<Weights>();                        // (D) an element of each query
    auto* const candidates = reinterpret_cast<Candidate<T>*>(columns + d);  // (users_of_block, block_items)
    for (int e = thread_x(); e < users_of_block * d; e += max_threads) {
      const int u = e / d;
      columns[e % d][u] = u0 + u < queries.rows() ? queries(u0 + u, e % d) : T(0);
    }
    __syncthreads();
    for (int at = thread_x(); at < block_items; at += max_threads) {
      const Index v = begin + at;
      Weights scores{};
      if (v < end) {
        if (packed) {
          add_products<pack_width<Element>>(columns, table.row(v), d, scores);
        } else {
          add_products<1>(columns, table.row(v), d, scores);
        }
      }
      for (int u = 0; u < users_of_block; ++u) {
        const bool number = scores[u] == scores[u];  // NaN is no candidate
        candidates[u * block_items + at] =
            v < end && number ? Candidate<T>{scores[u], static_cast<ItemId>(v)} : Candidate<T>::none();
      }
    }
    __syncthreads();
    const int u = u0 + warp();
    if (u < queries.rows()) {
      Candidate<T>* const mine = candidates + warp() * block_items;
      apply_seen(u, begin, end, mine);
      const int count = keep_promising(mine);
      sort(mine, count);
      Candidate<T>* const list = lists + (Index{u} * blocks_x() + block_x()) * length;
      for (int i = lane(); i < length; i += warp_size) {
        list[i] = i < count ? mine[i] : Candidate<T>::none();
      }
    }
  }

  template <int N, class Weights>
  __device__ static void add_products(const Weights* columns, const Element* row, int d, Weights& scores) {
    for (int c = 0; c < d; c += N) {
      const auto elements = load_pack<N>(row + c);
      ELCREC_UNROLL()
      for (int e = 0; e < N; ++e) {
        const Weights q = columns[c + e];
        ELCREC_UNROLL()
        for (int u = 0; u < users_of_block; ++u) {
          scores[u] = multiply_add(q[u], static_cast<T>(elements[e]), scores[u]);
        }
      }
    }
  }

  __device__ void apply_seen(int u, Index begin, Index end, Candidate<T>* mine) const {
    if (rule != RankingRule::Seen::keep) {
      const int seen_end = lower_bound(seen, offsets[u], offsets[u + 1], end);
      for (int i = lower_bound(seen, offsets[u], seen_end, begin) + lane(); i < seen_end; i += warp_size) {
        mine[seen[i] - begin] = rule == RankingRule::Seen::zero ? Candidate<T>{T(0), seen[i]} : Candidate<T>::none();
      }
    }
    __syncwarp();
  }

  /// Moves the candidates that may be among the best `length` to the front, in their order; returns how many.
  __device__ int keep_promising(Candidate<T>* mine) const {
    T bound = -infinity<T>;
    if (length <= warp_size) {
      T largest = -infinity<T>;
      for (int i = lane(); i < block_items; i += warp_size) {
        largest = larger(largest, mine[i].score);
      }
      // The lane whose largest score is the length-th best of all lanes', in the order of lanes among equals.
      int better = 0;
      for (int l = 0; l < warp_size; ++l) {
        const T other = __shfl_sync(whole_warp, largest, l);
        better += other > largest || (other == largest && l < lane()) ? 1 : 0;
      }
      const unsigned chosen = __ballot_sync(whole_warp, better == length - 1);
      bound = __shfl_sync(whole_warp, largest, __ffs(static_cast<int>(chosen)) - 1);
    }
    int count = 0;
    for (int i = lane(); i < block_items; i += warp_size) {
      const Candidate<T> candidate = mine[i];
      const bool keep = candidate.item != no_item && candidate.score >= bound;
      const unsigned kept = __ballot_sync(whole_warp, keep);
      if (keep) {
        mine[count + __popc(kept & ((1U << lane()) - 1))] = candidate;  // never behind what is still to be read
      }
      count += __popc(kept);
    }
    __syncwarp();
    return count;
  }

  /// Bitonic sort by one warp; room for the next power of two is there.
  __device__ static void sort(Candidate<T>* mine, int count) {
    int size = 1;
    while (size < count) {
      size *= 2;
    }
    for (int i = count + lane(); i < size; i += warp_size) {
      mine[i] = Candidate<T>::none();
    }
    __syncwarp();
    for (int run = 2; run <= size; run *= 2) {
      for (int gap = run / 2; gap > 0; gap /= 2) {
        for (int pair = lane(); pair < size / 2; pair += warp_size) {
          const int low = pair / gap * 2 * gap + pair % gap;
          const int high = low + gap;
          const bool rising = (low & run) == 0;
          const Candidate<T> a = mine[low];
          const Candidate<T> b = mine[high];
          if (rising ? b < a : a < b) {
            mine[low] = b;
            mine[high] = a;
          }
        }
        __syncwarp();
      }
    }
  }
};

/// Merges each 8 neighbouring sorted lists of a query into one, cut to its length. A thread takes a candidate, whose
/// place is its own number and those of the better ones in the other lists.
template <class T>
struct MergeListsKernel {
  static constexpr int max_threads = 128;
  static constexpr int fan = 8;
  const Candidate<T>* from;  // (U, from_lists, from_length)
  int from_lists;
  int from_length;
  Candidate<T>* to;  // (U, ceil(from_lists / 8), to_length)
  int to_length;
  Index users;

  __device__ void operator()() const {
    const Index number = global_thread();
    const Index query_size = Index{from_lists} * from_length;
    if (number >= users * query_size) {
      return;
    }
    const Index u = number / query_size;
    const int list = static_cast<int>(number % query_size / from_length);
    const int at = static_cast<int>(number % from_length);
    const Candidate<T>* const lists = from + u * query_size;
    const Candidate<T> own = lists[Index{list} * from_length + at];
    const int group = list / fan;
    int place = at;
    for (int other = group * fan; other < (group + 1) * fan && other < from_lists; ++other) {
      if (other != list && place < to_length) {
        place += count_before(lists + Index{other} * from_length, own, other < list);
      }
    }
    if (place < to_length) {
      const Index to_lists = (from_lists + fan - 1) / fan;
      to[(u * to_lists + group) * to_length + place] = own;
    }
  }

  /// Entries of a sorted list that are better, or also the equal ones (only empty places are equal).
  [[nodiscard]] __device__ int count_before(const Candidate<T>* list, const Candidate<T>& own, bool equal_too) const {
    int begin = 0;
    int end = from_length;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (equal_too ? !(own < list[middle]) : list[middle] < own) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }
};

/// The candidates of the one list that a query has left, and how many there are.
template <class T>
struct WriteTopKernel {
  static constexpr int max_threads = 64;
  const Candidate<T>* lists;  // (U, length)
  int length;
  MatrixView<T> scores;
  ItemId* items;
  Index* found;

  __device__ void operator()() const {
    const int u = block_x();
    const Candidate<T>* const list = lists + Index{u} * length;
    int count = 0;
    for (int i = thread_x(); i < length; i += threads_x()) {
      if (list[i].item != no_item) {
        scores(u, i) = list[i].score;
        items[u * scores.cols() + i] = list[i].item;
        ++count;
      }
    }
    count = block_sum(count);
    if (thread_x() == 0) {
      found[u] = count;
    }
  }
};

/// Offsets, ids and counts are device memory. Scratch: 8 k bytes (float) for every query and 512 items, for so many
/// queries at a time that it stays near 64 MB.
template <class T, class Element>
void top_k(const Stream& stream, CudaWorkspace& memory, const RankingRule& rule, MatrixView<const T> queries,
           MatrixView<const Element> table, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
           MatrixView<T> scores, std::span<ItemId> items, std::span<Index> found) {
  using Top = BlockTopKernel<T, Element>;
  using Merge = MergeListsKernel<T>;
  using Finish = WriteTopKernel<T>;
  constexpr Index scratch_candidates = Index{8} << 20;
  constexpr Index most_user_blocks = 65535;  // of a grid's second dimension
  const Index k = scores.cols();
  const Index blocks = std::max<Index>(1, blocks_for(Index{rule.last} - rule.first, Top::block_items));
  const Index length = std::min<Index>(k, Top::block_items);
  const Index step = std::clamp<Index>(scratch_candidates / std::max<Index>(1, blocks * length), Top::users_of_block,
                                       most_user_blocks * Top::users_of_block);
  for (Index u0 = 0; u0 < queries.rows(); u0 += step) {
    const Index users = (std::min)(step, queries.rows() - u0);
    const auto frame = memory.frame();
    Index lists = blocks;
    Index list_length = length;
    auto from = memory.template array<Candidate<T>>(users * lists * list_length);
    launch(stream, {.x = k == 0 ? 0 : blocks, .y = blocks_for(users, Top::users_of_block)}, {.x = Top::max_threads},
           Top::shared_bytes(queries.cols()),
           Top{queries.slice_rows(u0, u0 + users), table, offsets.data() + u0, seen.data(), rule.seen, rule.first,
               rule.last, static_cast<int>(list_length), has_packs(table), from.data()});
    while (lists > 1) {
      const Index merged_lists = blocks_for(lists, Merge::fan);
      const Index merged_length = (std::min)(k, list_length * std::min<Index>(lists, Merge::fan));
      const auto to = memory.template array<Candidate<T>>(users * merged_lists * merged_length);
      launch(stream, {.x = blocks_for(users * lists * list_length, Merge::max_threads)}, {.x = Merge::max_threads}, 0,
             Merge{from.data(), static_cast<int>(lists), static_cast<int>(list_length), to.data(),
                   static_cast<int>(merged_length), users});
      from = to;
      lists = merged_lists;
      list_length = merged_length;
    }
    launch(stream, {.x = users}, {.x = Finish::max_threads}, 0,
           Finish{from.data(), static_cast<int>(list_length), scores.slice_rows(u0, u0 + users), items.data() + u0 * k,
                  found.data() + u0});
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
