#include "caching/store/sqlite_questions.h"

#include "caching/semantic/dot.h"

namespace caching {

bool put_question(SqliteStatement& statement, const SavedQuestion& one) {
    std::string vector(one.vector.size(), '\0');
    const float scale = one.vector.empty() ? 0.0F : quantise(one.vector, reinterpret_cast<std::int8_t*>(vector.data()));
    statement.key(1, one.exact);
    statement.key(2, one.partition);
    statement.text(3, one.tenant);
    statement.text(4, one.category);
    statement.text(5, one.embedder);
    statement.text(6, one.revision);
    statement.tags(7, one.tags);
    statement.integer(8, static_cast<std::int64_t>(one.meaning));
    statement.integer(9, one.created_unix_us);
    statement.integer(10, one.ttl_us);
    statement.real(11, one.saved_s);
    statement.blob(12, bytes_of(one.profile));
    statement.real(13, static_cast<double>(scale));
    statement.blob(14, vector);
    statement.blob(15, one.document);
    return statement.run();
}

bool read_question(SqliteStatement& statement, SavedQuestion& one) {
    if (!statement.key_of(0, one.exact) || !statement.key_of(1, one.partition)) { return false; }
    one.tenant = statement.bytes_of(2);
    one.category = statement.bytes_of(3);
    one.embedder = statement.bytes_of(4);
    one.revision = statement.bytes_of(5);
    one.tags = statement.tags_of(6);
    one.meaning = static_cast<std::uint64_t>(statement.integer_of(7));
    one.created_unix_us = statement.integer_of(8);
    one.ttl_us = statement.integer_of(9);
    one.saved_s = statement.real_of(10);
    if (!read_profile(statement.bytes_of(11), one.profile)) { return false; }
    const auto scale = static_cast<float>(statement.real_of(12));
    const std::string vector = statement.bytes_of(13);
    one.vector.clear();
    for (const char value : vector) {
        one.vector.push_back(static_cast<float>(static_cast<std::int8_t>(value)) * scale);
    }
    one.document = statement.bytes_of(14);
    return one.meaning != 0 && !one.document.empty();
}

}  // namespace caching
