--- How a function comes about: each step of the denoising, drawn where it will be written.
local api = vim.api
local M = {}

local MASK = "░"
local namespace = api.nvim_create_namespace("talaria.steps")
---The pieces of the last step in each buffer.
local former = {} ---@type table<integer, (string|vim.NIL)[]?>

---The byte in a line that a position of the protocol is at.
---@param line string
---@param character integer
---@param encoding "utf-8"|"utf-16"|"utf-32"
---@return integer
local function byte(line, character, encoding)
  if vim.fn.has("nvim-0.11") == 1 then
    return vim.str_byteindex(line, encoding, character, false)
  end
  return vim.lsp.util._str_byteindex_enc(line, character, encoding)
end

---Pieces as lines of text with their highlights.
---@param pieces (string|vim.NIL)[]
---@param before (string|vim.NIL)[] those of the step before
---@return [string, string][][]
local function lines_of(pieces, before)
  local lines = { {} } ---@type [string, string][][]
  for index, piece in ipairs(pieces) do
    local text, group = piece, "TalariaStep"
    if piece == vim.NIL then
      text, group = MASK, "TalariaMask"
    elseif before[index] ~= piece then
      group = "TalariaFresh"
    end
    for number, part in ipairs(vim.split(text, "\n", { plain = true })) do
      if number > 1 then lines[#lines + 1] = {} end
      table.insert(lines[#lines], { part, group })
    end
  end
  return lines
end

---Remove what is drawn.
---@param buf integer
function M.clear(buf)
  former[buf] = nil
  if api.nvim_buf_is_valid(buf) then api.nvim_buf_clear_namespace(buf, namespace, 0, -1) end
end

---The handler of `talaria/step`: draw a step, if the text is the one that it is about.
---@param params { uri: string, version: integer, position: lsp.Position, pieces: string[] }
---@param context lsp.HandlerContext
function M.draw(_, params, context)
  local buf = vim.uri_to_bufnr(params.uri)
  local client = vim.lsp.get_client_by_id(context.client_id)
  if not client or vim.lsp.util.buf_versions[buf] ~= params.version then return M.clear(buf) end
  local row = params.position.line
  local line = api.nvim_buf_get_lines(buf, row, row + 1, false)[1] or ""
  local column = byte(line, params.position.character, client.offset_encoding)
  local lines = lines_of(params.pieces, former[buf] or {})
  -- The placeholder that is being replaced shall not show behind a shorter text.
  table.insert(lines[1], { (" "):rep(api.nvim_strwidth(line:sub(column + 1))), "Normal" })
  M.clear(buf)
  former[buf] = params.pieces
  api.nvim_buf_set_extmark(buf, namespace, row, column, {
    virt_text = lines[1],
    virt_text_pos = "overlay",
    virt_lines = #lines > 1 and vim.list_slice(lines, 2) or nil,
  })
end

return M
