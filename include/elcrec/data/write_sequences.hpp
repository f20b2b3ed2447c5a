#pragma once

#include <ostream>
#include <string>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/sequence_dataset.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Writes lines `user item item ...` of names, as read_sequences() takes them (which wants an item at least,
/// and items of positive names).
/// Throws FileError if the stream fails.
inline void write_sequences(const SequenceDataset& data, std::ostream& out) {
  std::string line;
  for (Index user = 0; user < data.user_count(); ++user) {
    line = std::to_string(data.user_name(user));
    for (const ItemId item : data.history(user)) {
      line.append(1, ' ').append(std::to_string(data.item_map().name(item)));
    }
    out << (line += '\n');
  }
  out.flush();
  require<FileError>(out.good(), "sequences cannot be written: the stream failed; expected room for ",
                     data.user_count(), " lines");
}

}  // namespace elcrec::inline ELCREC_TARGET
