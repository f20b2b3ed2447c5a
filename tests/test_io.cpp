#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "elcrec/core/error.hpp"
#include "elcrec/io/atomic_file.hpp"
#include "elcrec/io/safetensors.hpp"
#include "paths.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;

namespace {

/// A folder that is empty at first and gone at the end.
class ScratchFolder {
 public:
  ScratchFolder() : path_(fs::temp_directory_path() / ("elcrec_test_io." + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directory(path_);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { fs::remove_all(path_); }

  [[nodiscard]] fs::path operator/(const char* name) const { return path_ / name; }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  fs::path path_;
};

/// Makes writes beyond `bytes` fail with EFBIG, as a full disk makes them fail with ENOSPC.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int);
};

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::string with_length(std::string_view header, std::string_view data = {}) {
  const std::uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(header).append(data);
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  std::string text(values.size() * sizeof(T), '\0');
  std::memcpy(text.data(), values.begin(), text.size());
  return text;
}

el::SafetensorsFile parse(std::string_view file) { return el::SafetensorsFile::parse(bytes_of(file), "m.st"); }

/// A file with the single tensor "w" of `count` elements.
el::SafetensorsFile single(const char* dtype, std::size_t count, const std::string& data) {
  return parse(with_length(
      el::message(R"({"w":{"dtype":")", dtype, R"(","shape":[)", count, R"(],"data_offsets":[0,)", data.size(), "]}}"),
      data));
}

/// The message of the FileError that parsing this header, followed by 16 bytes of data, gives.
std::string header_error(std::string_view header) {
  try {
    (void)parse(with_length(header, std::string(16, '\0')));
  } catch (const el::FileError& e) {
    return e.what();
  }
  return "accepted";
}

void write_text(const fs::path& path, std::string_view text) {
  const std::array<std::span<const std::byte>, 1> pieces = {std::as_bytes(std::span(text))};
  el::write_file_atomically(path, pieces);
}

}  // namespace

TEST_CASE("safetensors: the writer's bytes are the format's, in whatever order tensors are added") {
  const ScratchFolder folder;
  const std::vector<float> weights = {1.0F, -2.5F, 3.0F};
  const std::vector<std::int64_t> ids = {7, -9};
  const std::vector<std::int8_t> marks = {1, 2, 3};

  el::SafetensorsWriter writer;
  writer.add<std::int8_t>("marks", {3}, marks);
  writer.add<float>("b", {3, 1}, weights);
  writer.add<std::int64_t>("ids", {2}, ids);
  writer.metadata("z", "1");
  writer.metadata("a", "first");
  writer.metadata("a", "x\"y");
  writer.write(folder / "one.safetensors");

  std::string header =
      R"({"__metadata__":{"a":"x\"y","z":"1"},"ids":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"F32","shape":[3,1],"data_offsets":[16,28]},)"
      R"("marks":{"dtype":"I8","shape":[3],"data_offsets":[28,31]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(content(folder / "one.safetensors") ==
        with_length(header, raw<std::int64_t>({7, -9}) + raw({1.0F, -2.5F, 3.0F}) + raw<std::int8_t>({1, 2, 3})));

  el::SafetensorsWriter reordered;
  reordered.metadata("a", "x\"y");
  reordered.metadata("z", "1");
  reordered.add<std::int64_t>("ids", {2}, ids);
  reordered.add<std::int8_t>("marks", {3}, marks);
  reordered.add<float>("b", {3, 1}, weights);
  reordered.write(folder / "two.safetensors");
  CHECK(content(folder / "one.safetensors") == content(folder / "two.safetensors"));
}

TEST_CASE("safetensors: what is written is read back") {
  const ScratchFolder folder;
  const std::vector<double> matrix = {0.1, -2e300, 5e-324, 4.0, 5.0, 6.0};
  const std::vector<std::uint16_t> scalar = {65535};
  el::SafetensorsWriter writer;
  writer.metadata("Umlaut \xC3\xA4", "line\nbreak");
  writer.add<double>("matrix", {2, 3}, matrix);
  writer.add<std::uint16_t>("scalar", {}, scalar);
  writer.add<float>("empty", {0, 4}, {});
  writer.write(folder / "f");

  const el::SafetensorsFile file = el::SafetensorsFile::read(folder / "f");
  CHECK(file.names() == std::vector<std::string>{"empty", "matrix", "scalar"});
  CHECK(file.metadata() == std::map<std::string, std::string>{{"Umlaut \xC3\xA4", "line\nbreak"}});
  CHECK(file.contains("matrix"));
  CHECK_FALSE(file.contains("matri"));
  CHECK(file.info("matrix").dtype == el::DType::f64);
  CHECK(file.info("matrix").shape == std::vector<el::Index>{2, 3});
  CHECK(file.info("scalar").shape.empty());
  CHECK(file.read<double>("matrix") == matrix);
  CHECK(file.read<std::int32_t>("scalar") == std::vector<std::int32_t>{65535});
  CHECK(file.read<float>("empty").empty());

  std::array<double, 6> out{};
  file.read("matrix", std::span<double>(out));
  CHECK(std::equal(out.begin(), out.end(), matrix.begin(), matrix.end()));

  writer = {};
  writer.write(folder / "f");
  CHECK(content(folder / "f") == with_length("{}      "));
  CHECK(el::SafetensorsFile::read(folder / "f").names().empty());
}

TEST_CASE("safetensors: the writer refuses what the format cannot hold") {
  const ScratchFolder folder;
  const std::vector<float> values(6);
  el::SafetensorsWriter writer;
  CHECK_THROWS_WITH_AS(writer.add<float>("w", {2, 2}, values),
                       "tensor \"w\" is to be F32 [2, 2] but has 6 elements; expected as many as the shape says",
                       el::ArgumentError);
  CHECK_THROWS_WITH_AS(writer.add<float>("w", {-2, -3}, values),
                       "tensor \"w\" is to be F32 [-2, -3] but has 6 elements; expected as many as the shape says",
                       el::ArgumentError);
  CHECK_THROWS_WITH_AS(writer.add<float>("__metadata__", {6}, values),
                       "tensor name \"__metadata__\" is reserved by the safetensors format", el::ArgumentError);
  writer.add<float>("w", {6}, values);
  CHECK_THROWS_WITH_AS(writer.add<float>("w", {2, 3}, values), "tensor \"w\" was added twice; expected once",
                       el::ArgumentError);
  writer.metadata("name", "\xFF");
  CHECK_THROWS_WITH_AS(writer.write(folder / "f"), doctest::Contains("tensor names and metadata must be UTF-8"),
                       el::ArgumentError);
  CHECK_THROWS_WITH_AS(writer.add<float>("deep", std::vector<el::Index>(65, 1), std::span(values).first(1)),
                       "tensor \"deep\" has 65 extents; expected at most 64", el::ArgumentError);
  el::SafetensorsWriter many;
  for (int i = 0; i <= 100'000; ++i) {
    many.metadata(std::to_string(i), "");
  }
  CHECK_THROWS_WITH_AS(many.write(folder / "f"), doctest::Contains("found 100001 metadata entries, expected at most"),
                       el::ArgumentError);
  writer.metadata("name", std::string(100'000'000, 'x'));
  CHECK_THROWS_WITH_AS(writer.write(folder / "f"), doctest::Contains("bytes; expected at most 100000000"),
                       el::ArgumentError);
  CHECK(folder.names().empty());
}

TEST_CASE("safetensors: half precision is widened exactly") {
  std::string data;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    data += raw({static_cast<std::uint16_t>((bits >> 10 & 0x1F) == 0x1F ? 0 : bits)});
  }
  const std::vector<float> values = single("F16", 0x10000, data).read<float>("w");
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 0x1F);
    const int fraction = static_cast<int>(bits & 0x3FF);
    if (exponent == 0x1F) {
      continue;
    }
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    const float expected = static_cast<float>(bits < 0x8000 ? magnitude : -magnitude);
    REQUIRE(values[bits] == expected);
    REQUIRE(std::signbit(values[bits]) == std::signbit(expected));
  }
  CHECK(single("BF16", 3, raw<std::uint16_t>({0x3F80, 0xC049, 0x0001})).read<double>("w") ==
        std::vector<double>{1.0, -3.140625, std::ldexp(1.0, -133)});

  for (const int bits : {0x7C00, 0xFC00, 0x7C01, 0xFFFF}) {
    CHECK_THROWS_WITH_AS((void)single("F16", 1, raw({static_cast<std::uint16_t>(bits)})).read<float>("w"),
                         doctest::Contains("m.st: tensor \"w\" element 0 is"), el::FileError);
  }
}

TEST_CASE("safetensors: values that are not finite or out of range are refused") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS((void)single("F32", 3, raw({1.0F, 2.0F, nan})).read<float>("w"),
                       "m.st: tensor \"w\" element 2 is nan; expected a finite number", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("F32", 2, raw({1.0F, -inf})).read<double>("w"),
                       "m.st: tensor \"w\" element 1 is -inf; expected a finite number", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("F64", 1, raw({1e300})).read<float>("w"),
                       "m.st: tensor \"w\" element 0 is 1e+300; expected a magnitude of at most 3.40282e+38",
                       el::FileError);
  CHECK(single("F64", 1, raw({1e300})).read<double>("w") == std::vector<double>{1e300});

  CHECK_THROWS_WITH_AS((void)single("I64", 2, raw<std::int64_t>({3, 5'000'000'000})).read<std::int32_t>("w"),
                       "m.st: tensor \"w\" element 1 is 5000000000; expected -2147483648 to 2147483647", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("I8", 1, raw<std::int8_t>({-1})).read<std::uint8_t>("w"),
                       "m.st: tensor \"w\" element 0 is -1; expected 0 to 255", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("U64", 1, raw({~std::uint64_t{0}})).read<std::int64_t>("w"),
                       doctest::Contains("element 0 is 18446744073709551615; expected -9223372036854775808 to"),
                       el::FileError);
  CHECK(single("U32", 1, raw<std::uint32_t>({2147483647})).read<std::int32_t>("w") ==
        std::vector<std::int32_t>{2147483647});
}

TEST_CASE("safetensors: reads of the wrong kind, name or size are refused") {
  const el::SafetensorsFile floats = single("F32", 2, raw({1.0F, 2.0F}));
  CHECK_THROWS_WITH_AS((void)floats.info("v"), "m.st: tensor \"v\" is missing", el::FileError);
  CHECK_THROWS_WITH_AS((void)floats.read<float>("v"), "m.st: tensor \"v\" is missing", el::FileError);
  CHECK_THROWS_WITH_AS((void)floats.read<int>("w"), "m.st: tensor \"w\" is F32 [2]; expected an integer type",
                       el::FileError);
  std::array<float, 3> out{};
  CHECK_THROWS_WITH_AS(floats.read("w", std::span<float>(out)),
                       "m.st: tensor \"w\" is F32 [2] (2 elements); expected 3 elements", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("I32", 1, raw({1})).read<float>("w"),
                       "m.st: tensor \"w\" is I32 [1]; expected F16, BF16, F32 or F64", el::FileError);
  CHECK_THROWS_WITH_AS((void)single("F8_E4M3", 1, "x").read<double>("w"),
                       "m.st: tensor \"w\" is F8_E4M3 [1]; expected F16, BF16, F32 or F64", el::FileError);
}

TEST_CASE("safetensors: a header length that cannot be is refused") {
  CHECK_THROWS_WITH_AS((void)parse("1234567"),
                       "m.st: has 7 bytes; expected a safetensors file, which begins with an 8-byte header length",
                       el::FileError);
  std::string past_end = with_length("{}");
  past_end[0] = 3;
  CHECK_THROWS_WITH_AS((void)parse(past_end),
                       "m.st: header length is 3 bytes; expected at most the 2 bytes that follow it", el::FileError);
  past_end[7] = '\xFF';
  CHECK_THROWS_WITH_AS((void)parse(past_end),
                       "m.st: header length is 18374686479671623683 bytes; expected at most the 2 bytes that follow it",
                       el::FileError);
  CHECK_THROWS_WITH_AS((void)parse(with_length(std::string(100'000'001, ' '))),
                       "m.st: header length is 100000001 bytes; expected at most 100000000", el::FileError);
}

TEST_CASE("safetensors: a file's memory and time are in proportion to what it can hold") {
  const ScratchFolder folder;
#if defined(__SANITIZE_ADDRESS__)
  constexpr long limit_kb = 600'000;  // it keeps what was freed for a while
#else
  constexpr long limit_kb = 150'000;
#endif
  const auto reading_takes = [&](const char* name, const char* expected) {
    // A process of its own: its peak is that of this file.
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      rlimit limit{};
      ::getrlimit(RLIMIT_CPU, &limit);
      limit.rlim_cur = 20;
      ::setrlimit(RLIMIT_CPU, &limit);
      rusage before{};
      ::getrusage(RUSAGE_SELF, &before);
      bool as_expected = false;
      try {
        (void)el::SafetensorsFile::read(folder / name);
      } catch (const el::FileError& e) {
        as_expected = std::string_view(e.what()).find(expected) != std::string_view::npos;
      }
      rusage after{};
      ::getrusage(RUSAGE_SELF, &after);
      ::_exit(as_expected && after.ru_maxrss - before.ru_maxrss < limit_kb ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CAPTURE(std::string(name));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  };
  const auto list = [](std::string begin, const char* entry, const char* end) {
    for (int i = 0; begin.size() < 10'000'000; ++i) {
      begin += el::message(begin.back() == '{' ? "" : ",", '"', i, "\":", entry);
    }
    return begin + end;
  };
  write_text(folder / "sparse", with_length("{}"));
  fs::resize_file(folder / "sparse", std::uintmax_t{3} << 30);
  reading_takes("sparse", "the tensors end at byte 0; expected 3221225462");
  write_text(folder / "tensors", with_length(list("{", R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})", "}")));
  reading_takes("tensors", "header has more than 100000 tensors");
  write_text(folder / "metadata", with_length(list(R"({"__metadata__":{)", R"("")", "}}")));
  reading_takes("metadata", "__metadata__ has more than 100000 entries");
  write_text(folder / "members", with_length(list(R"({"w":{)", "{}", "}}")));
  reading_takes("members", "tensor \"w\" has no dtype");
  std::string shape = R"({"w":{"dtype":"U8","shape":[1)";
  while (shape.size() < 10'000'000) {
    shape += ",1";
  }
  write_text(folder / "shape", with_length(shape + R"(],"data_offsets":[0,1]}})", "x"));
  reading_takes("shape", "tensor \"w\" has more than 64 extents");
}

TEST_CASE("safetensors: a malformed header is refused with the place and the expectation") {
  // Each is followed by 16 bytes of data.
  const std::string w = R"("w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]})";
  REQUIRE(header_error("{" + w + "}") == "accepted");
  REQUIRE(header_error("{" + w + "}   \n") == "accepted");

  const auto tensor = [](const char* members) { return header_error(el::message(R"({"w":{)", members, "}}")); };
  const auto has = [](const std::string& text, const char* part) {
    CAPTURE(text);
    CHECK(text.starts_with("m.st: "));
    CHECK(text.find(part) != std::string::npos);
  };

  SUBCASE("JSON") {
    has(header_error(""), "header is not a JSON object in plain text");
    has(header_error("[1]"), "header is not a JSON object in plain text");
    has(header_error("\xEF\xBB\xBF{" + w + "}"), "header is not a JSON object in plain text");
    has(header_error("{" + w + "}" + std::string("\0x", 2)), "header is not a JSON object in plain text");
    has(header_error("{" + w), "header is not valid JSON: ");
    has(header_error("{" + w + "} {}"), "header is not valid JSON: ");
    has(header_error("{\"\xFF\":1}"), "header is not valid JSON: ");
    has(header_error(R"({"w":1e999})"), "header is not valid JSON: ");
    has(header_error(R"({"w":{"later":)" + std::string(100'000, '[')), "header nests deeper than 8 levels");
    has(header_error("{" + w + "," + w + "}"), R"(header has the key "w" twice; expected it once)");
    has(header_error("{" + w + R"(,"\u0077":{}})"), R"(header has the key "w" twice; expected it once)");
    has(tensor(R"("dtype":"F32","shape":[4],"data_offsets":[0,16],"shape":[4])"), R"(key "shape" twice)");
    has(header_error(R"({"__metadata__":{"a":"1","a":"2"},)" + w + "}"), R"(key "a" twice)");
    has(header_error(R"({"__metadata__":{"a":"1"},"__metadata__":{"b":"2"},)" + w + "}"),
        R"(key "__metadata__" twice)");
  }
  SUBCASE("metadata") {
    has(header_error(R"({"__metadata__":["a"],)" + w + "}"),
        "__metadata__ is of type array; expected an object of strings");
    has(header_error(R"({"__metadata__":{"layers":2},)" + w + "}"),
        R"(__metadata__ "layers" is of type number; expected a string)");
  }
  SUBCASE("members") {
    has(header_error(R"({"w":3})"), R"(tensor "w" is of type number; expected an object with dtype, shape and)");
    has(tensor(R"("shape":[4],"data_offsets":[0,16])"), R"(tensor "w" has no dtype; expected a string)");
    has(tensor(R"("dtype":"F32","data_offsets":[0,16])"), R"(tensor "w" has no shape; expected an array of extents)");
    has(tensor(R"("dtype":"F32","shape":[4])"), R"(tensor "w" has no data_offsets; expected an array of two)");
    has(tensor(R"("dtype":1,"shape":[4],"data_offsets":[0,16])"),
        R"(tensor "w" has dtype of type number; expected a string)");
    has(tensor(R"("dtype":"f32","shape":[4],"data_offsets":[0,16])"), R"(tensor "w" has the unknown dtype "f32")");
    has(tensor(R"("dtype":"F32","shape":4,"data_offsets":[0,16])"), R"(tensor "w" has shape of type number)");
  }
  SUBCASE("shape") {
    has(tensor(R"("dtype":"F32","shape":[-4],"data_offsets":[0,16])"), R"(tensor "w" has the extent -4; expected)");
    has(tensor(R"("dtype":"F32","shape":[4.0],"data_offsets":[0,16])"), R"(tensor "w" has the extent 4.0; expected)");
    has(tensor(R"("dtype":"F32","shape":["4"],"data_offsets":[0,16])"), R"(tensor "w" has the extent string;)");
    has(tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16])"),
        R"(tensor "w" has the extent 9223372036854775808; expected a whole number from 0 to 9223372036854775807)");
    // 2^62 elements are an Index, their 2^64 bytes are not; 2^32 * 2^32 would wrap to 0.
    has(tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16])"),
        R"(tensor "w" is F32 [4611686018427387904]; expected fewer than 2^63 bytes)");
    has(tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
        R"(tensor "w" is U8 [4294967296, 4294967296]; expected fewer than 2^63 bytes)");
  }
  SUBCASE("offsets") {
    has(tensor(R"("dtype":"F32","shape":[4],"data_offsets":[0])"), R"(tensor "w" has malformed data_offsets)");
    has(tensor(R"("dtype":"F32","shape":[4],"data_offsets":[-1,16])"), R"(tensor "w" has malformed data_offsets)");
    has(tensor(R"("dtype":"F32","shape":[4],"data_offsets":[1,17])"),
        R"(tensor "w" has data_offsets [1, 17]; expected a range within the 16 bytes of data)");
    has(tensor(R"("dtype":"F32","shape":[4],"data_offsets":[16,0])"),
        R"(tensor "w" has data_offsets [16, 0]; expected a range within the 16 bytes of data)");
    has(tensor(R"("dtype":"F32","shape":[2,2],"data_offsets":[0,15])"),
        R"(tensor "w" has data_offsets [0, 15], 15 bytes; expected 16 bytes for F32 [2, 2])");
    has(tensor(R"("dtype":"U8","shape":[15],"data_offsets":[1,16])"),
        R"(tensor "w" begins at byte 1; expected 0, where the tensor before it ends (an unused range))");
    has(header_error(R"({"v":{"dtype":"U8","shape":[9],"data_offsets":[0,9]},)"
                     R"("w":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})"),
        R"(tensor "w" begins at byte 8; expected 9, where the tensor before it ends (an overlap))");
    has(tensor(R"("dtype":"U8","shape":[15],"data_offsets":[0,15])"),
        "the tensors end at byte 15; expected 16, the end of the file's data");
    has(header_error("{}"), "the tensors end at byte 0; expected 16, the end of the file's data");
  }
}

TEST_CASE("safetensors: every truncation is refused, every damaged header is refused or harmless") {
  const ScratchFolder folder;
  const std::vector<float> weights = {1.0F, -2.0F, 3.0F, 4.0F, 5.0F, 6.0F};
  const std::vector<std::int32_t> ids = {11, 12, 13};
  el::SafetensorsWriter writer;
  writer.metadata("layers", "2");
  writer.add<float>("weights", {2, 3}, weights);
  writer.add<std::int32_t>("ids", {3}, ids);
  writer.write(folder / "f");
  const std::string file = content(folder / "f");

  for (std::size_t length = 0; length < file.size(); ++length) {
    CAPTURE(length);
    CHECK_THROWS_AS((void)parse(file.substr(0, length)), el::FileError);
  }
  CHECK_THROWS_AS((void)parse(file + '\0'), el::FileError);

  const std::size_t header_size = file.size() - sizeof(float) * weights.size() - sizeof(std::int32_t) * ids.size();
  std::size_t accepted = 0;
  std::size_t refused = 0;
  const auto damage = [&](std::size_t at, char to) {
    CAPTURE(at);
    CAPTURE(static_cast<int>(to));
    std::string damaged = file;
    damaged[at] = to;
    try {
      const el::SafetensorsFile read = parse(damaged);
      ++accepted;  // a letter of a name or of the metadata
      REQUIRE(read.names().size() == 2);
      for (const std::string& name : read.names()) {
        if (read.info(name).dtype == el::DType::f32) {
          CHECK(read.read<float>(name) == weights);
        } else if (read.info(name).dtype == el::DType::i32 || read.info(name).dtype == el::DType::u32) {
          CHECK(read.read<std::int32_t>(name) == ids);
        }
      }
    } catch (const el::FileError& e) {
      ++refused;
      CHECK(std::string_view(e.what()).starts_with("m.st: "));
    }
  };
  for (std::size_t at = 0; at < header_size; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      damage(at, static_cast<char>(file[at] ^ (1 << bit)));
    }
    for (const char to : {'\0', '"', '{', '}', '[', ']', ',', ':', '-', '0', '9', ' ', '\\'}) {
      if (to != file[at]) {
        damage(at, to);
      }
    }
  }
  CHECK(accepted > 0);
  CHECK(refused > 10 * 8);
}

TEST_CASE("safetensors: the golden files are read, and copied without loss") {
  const ScratchFolder folder;
  const fs::path golden = fs::path(el::test::source_folder) / "tests/golden";
  const el::SafetensorsFile shift = el::SafetensorsFile::read(golden / "elcrec_shift_1layer.safetensors");
  CHECK(shift.names().size() == 167);
  CHECK(shift.metadata().at("prototype") == "shift");
  CHECK(shift.info("input_ids").dtype == el::DType::i64);
  CHECK(shift.info("input_ids").shape == std::vector<el::Index>{5, 7});
  CHECK(shift.read<std::int32_t>("target_neg").size() == 35);
  CHECK(shift.read<double>("loss.joint") == std::vector<double>{0x1.c02ffdcd35a75p+3});
  CHECK(shift.read<double>("param.cluster_centers").front() == 0x1.6207f027abbfap-3);

  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(golden)) {
    if (entry.path().extension() != ".safetensors") {
      continue;
    }
    CAPTURE(entry.path().string());
    ++files;
    const el::SafetensorsFile file = el::SafetensorsFile::read(entry.path());
    std::map<std::string, std::vector<double>> floats;
    std::map<std::string, std::vector<std::int64_t>> integers;
    el::SafetensorsWriter writer;
    for (const auto& [key, value] : file.metadata()) {
      writer.metadata(key, value);
    }
    for (const std::string& name : file.names()) {
      if (file.info(name).dtype == el::DType::f64) {
        writer.add<double>(name, file.info(name).shape, floats[name] = file.read<double>(name));
      } else {
        writer.add<std::int64_t>(name, file.info(name).shape, integers[name] = file.read<std::int64_t>(name));
      }
    }
    writer.write(folder / "copy");
    const el::SafetensorsFile copy = el::SafetensorsFile::read(folder / "copy");
    CHECK(copy.names() == file.names());
    CHECK(copy.metadata() == file.metadata());
    for (const auto& [name, values] : floats) {
      CHECK(copy.info(name).shape == file.info(name).shape);
      CHECK(copy.read<double>(name) == values);
    }
    for (const auto& [name, values] : integers) {
      CHECK(copy.info(name).shape == file.info(name).shape);
      CHECK(copy.read<std::int64_t>(name) == values);
    }
  }
  CHECK(files >= 2);
}

TEST_CASE("safetensors: files that cannot be read are named with the reason") {
  const ScratchFolder folder;
  const std::string missing = (folder / "missing").string();
  CHECK_THROWS_WITH_AS((void)el::SafetensorsFile::read(missing),
                       (missing + ": cannot be read: No such file or directory").c_str(), el::FileError);
  const std::string directory = (folder / "").string();
  CHECK_THROWS_WITH_AS((void)el::SafetensorsFile::read(directory),
                       (directory + ": cannot be read: Is a directory").c_str(), el::FileError);
  const std::string text = (folder / "text").string();
  write_text(text, "1 2 3\n");
  CHECK_THROWS_WITH_AS(
      (void)el::SafetensorsFile::read(text),
      (text + ": has 6 bytes; expected a safetensors file, which begins with an 8-byte header length").c_str(),
      el::FileError);
}

TEST_CASE("write_file_atomically: creates, replaces, keeps permissions, leaves no temporary") {
  const ScratchFolder folder;
  const fs::path path = folder / "f";
  const std::string_view first = "first ";
  const std::string_view second = "second";
  const std::array<std::span<const std::byte>, 3> pieces = {
      std::as_bytes(std::span(first)), {}, std::as_bytes(std::span(second))};
  el::write_file_atomically(path, pieces);
  CHECK(content(path) == "first second");

  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  write_text(path, "new");
  CHECK(content(path) == "new");
  CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(folder.names() == std::vector<std::string>{"f"});
}

TEST_CASE("write_file_atomically: nothing that lies where a temporary could be is opened or written through") {
  const ScratchFolder folder;
  write_text(folder / "victim", "untouched");
  const std::string by_process = "f.tmp." + std::to_string(::getpid());
  const std::string by_pattern = "f.tmp.0123456789abcdef";
  SUBCASE("a FIFO, at which an open for writing waits") {
    for (const auto& name : {by_process, by_pattern}) {
      REQUIRE(::mkfifo((folder / name.c_str()).c_str(), 0600) == 0);
    }
    ::alarm(60);  // instead of a test that hangs
    write_text(folder / "f", "text");
    ::alarm(0);
  }
  SUBCASE("a hard link") {
    for (const auto& name : {by_process, by_pattern}) {
      fs::create_hard_link(folder / "victim", folder / name.c_str());
    }
    write_text(folder / "f", "text");
  }
  SUBCASE("a symbolic link") {
    for (const auto& name : {by_process, by_pattern}) {
      fs::create_symlink(folder / "victim", folder / name.c_str());
    }
    write_text(folder / "f", "text");
  }
  CHECK(content(folder / "f") == "text");
  CHECK(content(folder / "victim") == "untouched");
  CHECK(folder.names().size() == 4);  // strangers' files stay
}

TEST_CASE("write_file_atomically: what a killed process left is removed, what a live one writes is not") {
  const ScratchFolder folder;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, SIG_DFL);  // kills in the middle of writing
    write_text(folder / "f", std::string(100'000, 'x'));
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(folder.names().size() == 1);
  const fs::path left = folder / folder.names().front().c_str();
  CHECK(left.filename().string().starts_with("f.tmp."));

  for (const char* name : {"f.tmp.0123456789abcde", "f.tmp.0123456789abcdeg", "f.tmp.", "g.tmp.0123456789abcdef"}) {
    write_text(folder / name, "not ours");
  }
  {
    const int held = ::open(left.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(::flock(held, LOCK_EX | LOCK_NB) == 0);
    write_text(folder / "f", "first");
    CHECK(fs::exists(left));
    ::close(held);
  }
  write_text(folder / "f", "second");
  CHECK_FALSE(fs::exists(left));
  CHECK(content(folder / "f") == "second");
  CHECK(folder.names().size() == 5);
}

TEST_CASE("write_file_atomically: two writers of one path do not disturb each other") {
  const ScratchFolder folder;
  const std::array<std::string, 2> texts = {std::string(50'000, 'a'), std::string(70'000, 'b')};
  std::array<int, 2> failures{};
  std::vector<std::thread> writers;
  for (std::size_t w = 0; w < 2; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 50; ++i) {
        try {
          write_text(folder / "f", texts[w]);
        } catch (const el::Error&) {
          ++failures[w];
        }
        const std::string found = content(folder / "f");
        failures[w] += found == texts[0] || found == texts[1] ? 0 : 1;
      }
    });
  }
  for (auto& writer : writers) {
    writer.join();
  }
  CHECK(failures == std::array<int, 2>{});
  CHECK(folder.names() == std::vector<std::string>{"f"});
}

TEST_CASE("write_file_atomically: a full disk leaves the old file and no temporary") {
  const ScratchFolder folder;
  const fs::path path = folder / "f";
  write_text(path, "old");
  std::string error = "none";
  {
    const FileSizeLimit limit(4096);
    try {
      write_text(path, std::string(10'000, 'x'));
    } catch (const el::FileError& e) {
      error = e.what();
    }
  }
  CHECK(error == path.string() + ": cannot be written: writing: File too large");
  CHECK(content(path) == "old");
  CHECK(folder.names() == std::vector<std::string>{"f"});

  const std::vector<float> values(10'000);
  el::SafetensorsWriter writer;
  writer.add<float>("w", {10'000}, values);
  {
    const FileSizeLimit limit(4096);
    try {
      writer.write(folder / "new");
    } catch (const el::FileError& e) {
      error = e.what();
    }
  }
  CHECK(error == (folder / "new").string() + ": cannot be written: writing: File too large");
  CHECK(folder.names() == std::vector<std::string>{"f"});
}

TEST_CASE("write_file_atomically: unusable places are named with the reason") {
  const ScratchFolder folder;
  const auto error_at = [](const fs::path& path) -> std::string {
    try {
      write_text(path, "text");
    } catch (const el::FileError& e) {
      return e.what();
    }
    return "written";
  };
  const fs::path missing = folder / "missing/f";
  CHECK(error_at(missing) == missing.string() + ": cannot be written: opening its folder: No such file or directory");

  write_text(folder / "file", "text");
  const fs::path below_file = folder / "file/f";
  CHECK(error_at(below_file) == below_file.string() + ": cannot be written: opening its folder: Not a directory");

  const fs::path long_name = folder / std::string(250, 'n').c_str();
  CHECK(error_at(long_name) ==
        long_name.string() + ": cannot be written: creating a temporary file beside it: File name too long");

  const fs::path fifo = folder / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(error_at(fifo) == fifo.string() + ": cannot be written: it exists and is not a regular file");
  CHECK(fs::is_fifo(fifo));
  fs::remove(fifo);
  CHECK(error_at(folder / "") == (folder / "").string() + ": cannot be written: it exists and is not a regular file");
  CHECK(folder.names() == std::vector<std::string>{"file"});
}
