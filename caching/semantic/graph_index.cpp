#include "caching/semantic/graph_index.h"

#include <algorithm>
#include <cmath>
#include <queue>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kSlack = 8;         // links beyond the most, where the other end would be left with too few
constexpr std::size_t kLinksKeptMin = 2;  // of the other end
constexpr std::size_t kLevelMax = 12;
constexpr std::size_t kMended = 4;  // links that a neighbour of a removed row may get in its place

}  // namespace

GraphIndex::GraphIndex(std::size_t dimensions, Options options)
    : dimensions_(dimensions), options_(options), room_(2 * options.links + kSlack), random_(options.seed) {
    CHECK(options.links >= 2 && room_ <= 255);
}

float GraphIndex::similarity(const VectorRows& rows, const Query& query, std::uint32_t row) {
    std::int32_t sum = 0;
    rows.dot_rows(query.vector, rows.vectors + std::size_t{row} * rows.dimensions, 1, rows.dimensions, &sum);
    return static_cast<float>(sum) * query.scale * rows.scales[row];
}

GraphIndex::Query GraphIndex::query_of(const VectorRows& rows, std::uint32_t row) {
    return {rows.vectors + std::size_t{row} * rows.dimensions, rows.scales[row]};
}

std::span<const std::uint32_t> GraphIndex::links(std::uint32_t row, std::size_t level) const {
    if (level == 0) { return {lowest_.data() + std::size_t{row} * room_, lowest_counts_[row]}; }
    return (*above_[row])[level - 1];
}

void GraphIndex::add_link(std::uint32_t from, std::uint32_t to, std::size_t level) {
    if (level == 0) {
        CHECK(lowest_counts_[from] < room_);
        lowest_[std::size_t{from} * room_ + lowest_counts_[from]] = to;
        ++lowest_counts_[from];
    } else {
        (*above_[from])[level - 1].push_back(to);
    }
}

void GraphIndex::drop_link(std::uint32_t from, std::uint32_t to, std::size_t level) {
    if (level == 0) {
        std::uint32_t* begin = lowest_.data() + std::size_t{from} * room_;
        std::uint32_t* end = begin + lowest_counts_[from];
        std::uint32_t* at = std::find(begin, end, to);
        CHECK(at != end);
        *at = *(end - 1);
        --lowest_counts_[from];
    } else {
        auto& list = (*above_[from])[level - 1];
        const auto at = std::find(list.begin(), list.end(), to);
        CHECK(at != list.end());
        *at = list.back();
        list.pop_back();
    }
}

void GraphIndex::rename_link(std::uint32_t of, std::uint32_t from, std::uint32_t to, std::size_t level) {
    std::uint32_t* begin = level == 0 ? lowest_.data() + std::size_t{of} * room_ : (*above_[of])[level - 1].data();
    std::uint32_t* end = begin + links(of, level).size();
    std::uint32_t* at = std::find(begin, end, from);
    CHECK(at != end);
    *at = to;
}

std::vector<GraphIndex::Candidate> GraphIndex::choose(const VectorRows& rows, const std::vector<Candidate>& candidates,
                                                      std::size_t limit) {
    std::vector<Candidate> chosen;
    std::vector<Candidate> others;
    for (const Candidate& one : candidates) {
        if (chosen.size() >= limit) { break; }
        const Query of_one = query_of(rows, one.row);
        const bool is_covered = std::any_of(chosen.begin(), chosen.end(), [&](const Candidate& better) {
            return similarity(rows, of_one, better.row) > one.similarity;
        });
        (is_covered ? others : chosen).push_back(one);
    }
    for (const Candidate& one : others) {
        if (chosen.size() >= limit) { break; }
        chosen.push_back(one);
    }
    return chosen;
}

void GraphIndex::connect(const VectorRows& rows, std::uint32_t a, std::uint32_t b, std::size_t level) {
    const auto of_a = links(a, level);
    if (a == b || std::find(of_a.begin(), of_a.end(), b) != of_a.end()) { return; }
    for (const std::uint32_t row : {a, b}) {
        if (links(row, level).size() >= most_links(level) + kSlack) { shrink(rows, row, level); }
    }
    if (std::max(links(a, level).size(), links(b, level).size()) >= most_links(level) + kSlack) { return; }
    add_link(a, b, level);
    add_link(b, a, level);
    for (const std::uint32_t row : {a, b}) {
        if (links(row, level).size() > most_links(level)) { shrink(rows, row, level); }
    }
}

/// Down to most_links(), but a link whose other end would be left with too few stays.
void GraphIndex::shrink(const VectorRows& rows, std::uint32_t row, std::size_t level) {
    const Query query = query_of(rows, row);
    std::vector<Candidate> all;
    for (const std::uint32_t other : links(row, level)) {
        all.push_back({similarity(rows, query, other), other});
    }
    std::sort(all.begin(), all.end(), [](const Candidate& x, const Candidate& y) {
        return x.similarity != y.similarity ? x.similarity > y.similarity : x.row < y.row;
    });
    const std::vector<Candidate> kept = choose(rows, all, most_links(level));
    for (const Candidate& one : all) {
        const auto is_same = [&](const Candidate& other) { return other.row == one.row; };
        if (std::any_of(kept.begin(), kept.end(), is_same)) { continue; }
        if (links(one.row, level).size() <= kLinksKeptMin) { continue; }
        drop_link(row, one.row, level);
        drop_link(one.row, row, level);
    }
}

std::vector<GraphIndex::Candidate> GraphIndex::search(const VectorRows& rows, const Query& query,
                                                      std::vector<Candidate> from, std::size_t width,
                                                      std::size_t level) const {
    if (++search_number_ == 0) {  // the numbers are used up
        std::fill(seen_.begin(), seen_.end(), 0u);
        search_number_ = 1;
    }
    const auto worse = [](const Candidate& a, const Candidate& b) { return a.similarity < b.similarity; };
    const auto better = [](const Candidate& a, const Candidate& b) { return a.similarity > b.similarity; };
    std::priority_queue<Candidate, std::vector<Candidate>, decltype(worse)> to_look(worse);
    std::priority_queue<Candidate, std::vector<Candidate>, decltype(better)> best(better);
    for (const Candidate& one : from) {
        if (std::exchange(seen_[one.row], search_number_) == search_number_) { continue; }
        to_look.push(one);
        best.push(one);
    }
    while (!to_look.empty()) {
        const Candidate next = to_look.top();
        to_look.pop();
        if (best.size() >= width && next.similarity < best.top().similarity) { break; }
        const auto others = links(next.row, level);
        for (const std::uint32_t other : others) {
            __builtin_prefetch(rows.vectors + std::size_t{other} * rows.dimensions);
        }
        for (const std::uint32_t other : others) {
            if (std::exchange(seen_[other], search_number_) == search_number_) { continue; }
            const Candidate one{similarity(rows, query, other), other};
            if (best.size() >= width && one.similarity <= best.top().similarity) { continue; }
            to_look.push(one);
            best.push(one);
            if (best.size() > width) { best.pop(); }
        }
    }
    std::vector<Candidate> found;
    while (!best.empty()) {
        found.push_back(best.top());
        best.pop();
    }
    std::reverse(found.begin(), found.end());
    return found;
}

std::vector<GraphIndex::Candidate> GraphIndex::descend(const VectorRows& rows, const Query& query,
                                                       std::size_t to_level) const {
    std::vector<Candidate> at{{similarity(rows, query, entry_), entry_}};
    for (std::size_t level = levels_[entry_]; level > to_level; --level) {
        at = search(rows, query, std::move(at), 1, level);
    }
    return at;
}

void GraphIndex::add(const VectorRows& rows) {
    CHECK(rows.dimensions == dimensions_);
    const auto row = static_cast<std::uint32_t>(levels_.size());
    const double draw = std::uniform_real_distribution<double>(1e-12, 1.0)(random_);
    const double drawn = -std::log(draw) / std::log(static_cast<double>(options_.links));
    const std::size_t level = std::min(static_cast<std::size_t>(drawn), kLevelMax);
    levels_.push_back(static_cast<std::uint8_t>(level));
    lowest_.resize(lowest_.size() + room_);
    lowest_counts_.push_back(0);
    seen_.push_back(0);
    above_.push_back(level == 0 ? nullptr : std::make_unique<std::vector<std::vector<std::uint32_t>>>(level));
    if (row == 0) {
        entry_ = 0;
        return;
    }
    put(rows, row);
}

void GraphIndex::put(const VectorRows& rows, std::uint32_t row) {
    if (entry_ == row) { return; }  // it is alone
    const std::size_t level = levels_[row];
    const Query query = query_of(rows, row);
    const std::size_t top = levels_[entry_];
    std::vector<Candidate> at = descend(rows, query, std::min(level, top));
    for (std::size_t down = std::min(level, top) + 1; down > 0; --down) {
        const std::size_t on = down - 1;
        at = search(rows, query, std::move(at), options_.build_width, on);
        for (const Candidate& one : choose(rows, at, options_.links)) {
            connect(rows, row, one.row, on);
        }
    }
    if (level > top) { entry_ = row; }
}

void GraphIndex::take(const VectorRows& rows, std::uint32_t row) {
    for (std::size_t level = 0; level <= levels_[row]; ++level) {
        leave(rows, row, level);
    }
    if (entry_ == row) { find_entry(row); }
}

/// Takes a row off a level and links those who led over it with each other.
void GraphIndex::leave(const VectorRows& rows, std::uint32_t row, std::size_t level) {
    const auto linked = links(row, level);
    const std::vector<std::uint32_t> around(linked.begin(), linked.end());
    for (const std::uint32_t other : around) {
        drop_link(row, other, level);
        drop_link(other, row, level);
    }
    for (const std::uint32_t other : around) {
        const Query query = query_of(rows, other);
        std::vector<Candidate> candidates;
        for (const std::uint32_t next : around) {
            if (next != other) { candidates.push_back({similarity(rows, query, next), next}); }
        }
        std::sort(candidates.begin(), candidates.end(), [](const Candidate& x, const Candidate& y) {
            return x.similarity != y.similarity ? x.similarity > y.similarity : x.row < y.row;
        });
        for (const Candidate& one : choose(rows, candidates, kMended)) {
            if (links(other, level).size() >= most_links(level)) { break; }
            connect(rows, other, one.row, level);
        }
    }
}

void GraphIndex::find_entry(std::uint32_t except) {
    if (entry_ == except) { entry_ = except == 0 && levels_.size() > 1 ? 1 : 0; }
    for (std::uint32_t row = 0; row < levels_.size(); ++row) {
        if (row != except && levels_[row] > levels_[entry_]) { entry_ = row; }
    }
}

void GraphIndex::remove(const VectorRows& rows, std::uint32_t row) {
    CHECK(row < levels_.size());
    const std::size_t top = levels_[row];
    std::uint32_t heir = row;  // of the entry, where one of its level is linked with it
    if (row == entry_ && top > 0 && !links(row, top).empty()) { heir = links(row, top).front(); }
    for (std::size_t level = 0; level <= top; ++level) {
        leave(rows, row, level);
    }
    const auto last = static_cast<std::uint32_t>(levels_.size() - 1);
    if (row != last) {
        for (std::size_t level = 0; level <= levels_[last]; ++level) {
            for (const std::uint32_t other : links(last, level)) {
                rename_link(other, last, row, level);
            }
        }
        levels_[row] = levels_[last];
        std::copy_n(lowest_.begin() + static_cast<std::ptrdiff_t>(std::size_t{last} * room_), room_,
                    lowest_.begin() + static_cast<std::ptrdiff_t>(std::size_t{row} * room_));
        lowest_counts_[row] = lowest_counts_[last];
        above_[row] = std::move(above_[last]);
    }
    levels_.pop_back();
    lowest_.resize(lowest_.size() - room_);
    lowest_counts_.pop_back();
    above_.pop_back();
    seen_.pop_back();
    if (levels_.empty()) { return; }
    if (entry_ != row) {
        if (entry_ == last) { entry_ = row; }
    } else if (heir != row) {
        entry_ = heir == last ? row : heir;
    } else {
        entry_ = 0;
        find_entry(static_cast<std::uint32_t>(levels_.size()));
    }
}

std::vector<std::pair<std::uint32_t, float>> GraphIndex::nearest(const VectorRows& rows,
                                                                 std::span<const std::int8_t> query, float scale,
                                                                 std::size_t limit) const {
    std::vector<std::pair<std::uint32_t, float>> found;
    if (levels_.empty()) { return found; }
    CHECK(query.size() == dimensions_);
    const Query asked{query.data(), scale};
    const std::size_t width = std::max(limit, options_.search_width);
    for (const Candidate& one : search(rows, asked, descend(rows, asked, 0), width, 0)) {
        if (found.size() >= limit) { break; }
        found.emplace_back(one.row, one.similarity);
    }
    return found;
}

std::size_t GraphIndex::bytes() const {
    std::size_t total = lowest_.capacity() * 4 + lowest_counts_.capacity() + levels_.capacity() + seen_.capacity() * 4 +
                        above_.capacity() * sizeof(above_[0]);
    for (const auto& row : above_) {
        if (row == nullptr) { continue; }
        for (const auto& level : *row) {
            total += sizeof(level) + level.capacity() * 4;
        }
    }
    return total;
}

bool GraphIndex::is_sound() const {
    for (std::uint32_t row = 0; row < levels_.size(); ++row) {
        for (std::size_t level = 0; level <= levels_[row]; ++level) {
            const auto mine = links(row, level);
            if (mine.size() > most_links(level) + kSlack) { return false; }
            for (const std::uint32_t other : mine) {
                if (other == row || other >= levels_.size() || levels_[other] < level) { return false; }
                const auto theirs = links(other, level);
                if (std::count(theirs.begin(), theirs.end(), row) != 1) { return false; }
                if (std::count(mine.begin(), mine.end(), other) != 1) { return false; }
            }
        }
    }
    return levels_.empty() ||
           (entry_ < levels_.size() && levels_[entry_] == *std::max_element(levels_.begin(), levels_.end()));
}

}  // namespace caching
